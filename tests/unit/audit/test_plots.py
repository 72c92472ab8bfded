"""Charts: drawn as text always, as a file where matplotlib is."""

from pathlib import Path

import pytest

from mira_stream.audit import plots
from mira_stream.audit.plots import Chart, Series, line_chart, write_charts
from mira_stream.audit.text_plots import text_chart
from mira_stream.core.errors import Refusal

CHART = Chart(
    title="Goodput",
    x_label="in flight",
    y_label="records/s",
    series=[
        Series(name="fixed", x=[1, 2, 4, 8, 16], y=[1, 2, 3.5, 4, 4.1]),
        Series(name="own", x=[7.5], y=[4.0], style="marks"),
    ],
    doubling=True,
    upright=[(8, "knee 8")],
)


def test_a_text_chart_shows_every_series_tick_and_label() -> None:
    """Title, units, a mark per point, ticks at the points, the legend; no line wider than asked for."""
    shown = text_chart(CHART, width=80, height=10)
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) == 1 + 10 + 4
    assert shown.count("◆") == 2
    assert shown.count("●") == 6
    assert [
        word for word in ("Goodput", "records/s", "in flight", "knee 8", "fixed", "own") if word not in shown
    ] == []
    assert lines[-3].split() == ["1", "2", "4", "8", "16"]


def test_the_highest_point_is_the_highest_row() -> None:
    """A point lies where its value says: the least at the bottom left, the greatest at the top right."""
    rising = Chart(title="", x_label="", y_label="", series=[Series(name="s", x=[0, 10], y=[0, 10])])
    lines = text_chart(rising, width=60, height=8).splitlines()
    marked = [line for line in lines[1:9] if "●" in line]
    assert len(marked) == 2
    assert marked[0].endswith("●")
    assert len(marked[0]) == 60
    assert marked[1] == lines[8]
    assert "●" in marked[1][:8]


def test_a_chart_of_nothing_is_drawn() -> None:
    """No series, or a single point: axes, and no error."""
    assert text_chart(Chart(title="t", x_label="x", y_label="y", series=[]))
    single = Chart(
        title="t", x_label="x", y_label="y", series=[Series(name="s", x=[3], y=[0])], doubling=True
    )
    assert "●" in text_chart(single)


def test_the_y_axis_ends_at_a_round_number() -> None:
    """A little above the highest point."""
    assert CHART.y_top == 5
    assert Chart(
        title="", x_label="", y_label="", series=[Series(name="", x=[1], y=[0.41])]
    ).y_top == pytest.approx(0.5)


def test_charts_are_written_the_same_each_time(tmp_path: Path) -> None:
    """An SVG of two charts, byte for byte the same when drawn again: no date, no random ids."""
    write_charts(tmp_path / "a.svg", [CHART, CHART])
    write_charts(tmp_path / "b.svg", [CHART, CHART])
    drawn = (tmp_path / "a.svg").read_bytes()
    assert drawn.startswith(b"<?xml")
    assert drawn == (tmp_path / "b.svg").read_bytes()
    line_chart(tmp_path / "a.png", CHART)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_missing_library_or_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without matplotlib the refusal says how to install it; a file that cannot be written is named."""
    with pytest.raises(Refusal, match=r"nowhere"):
        line_chart(tmp_path / "nowhere" / "a.svg", CHART)
    monkeypatch.setattr(plots, "find_spec", lambda _: None)
    with pytest.raises(Refusal) as refused:
        line_chart(tmp_path / "a.svg", CHART)
    assert "mira_stream[plots]" in refused.value.hint
