"""Every query of every panel and of every variable, asked of a real Prometheus that scraped a real run."""

import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.daemon import Daemon, Scrape, running, scrape
from tests.e2e.harness import Lab, conversation, replicas, until
from tests.system.prometheus import Prometheus, prometheus

DASHBOARDS = Path(__file__).parents[2] / "grafana" / "dashboards"
BAD = b'\n{"a":\n[1]\n{}\n{"what": "is this?", "n": 1}\n'
WAVE_RECORDS = 300
QUICKLY_SECONDS = 30.0


@pytest.mark.timeout(240)
@pytest.mark.slow
def test_every_panel_shows_something(tmp_path: Path) -> None:
    """A run with some of every trouble: no panel is empty, so none is misspelt and none asks for what is never told."""
    lab = Lab(tmp_path / "lab")
    with (
        replicas("--time-scale", "0.01", count=1) as well,
        replicas(
            "--time-scale", "0.01", "--damage-share", "0.5", "--fault", "lost@20-:share=0.05", count=1
        ) as sick,
    ):
        lab.configure(well + sick, log={"level": "info"})
        with running(lab) as daemon:
            _land(lab, daemon, wave=0)
            history = _weeks_ago(scrape(daemon), daemon.address)
            with prometheus(tmp_path / "prometheus", daemon.address, history) as found:
                until(lambda: bool(found.query("up == 1")), "the daemon is scraped")
                for wave in (1, 2, 3):
                    _land(lab, daemon, wave=wave)
                    daemon.process.send_signal(signal.SIGHUP)
                    _until_scraped(found, scrape(daemon).read)
                _until_all_show(found)
                assert daemon.process.poll() is None


def _land(lab: Lab, daemon: Daemon, *, wave: int) -> None:
    """Good records, long ones, bad lines, special tokens and a name that is none; until all have ended."""
    before = scrape(daemon).read
    good = [
        conversation(f"Wave {wave}, task {number}: <|im_start|> {'word ' * 20 * (number % 7)}")
        for number in range(WAVE_RECORDS)
    ]
    good.append(conversation(f"Wave {wave}: {'a long story ' * 20_000}"))
    lines = b"".join(good) + BAD
    lab.land(f"claude_cli/{wave}.jsonl", lines)
    lab.land(f"elsewhere/{wave}.jsonl", conversation(f"Wave {wave}, elsewhere."))
    lab.land(f"claude_cli/{wave}.tar", b"no object")
    expected = before + lines.count(b"\n") + 1

    def all_ended() -> bool:
        page = scrape(daemon)
        return page.read >= expected and page.sum("mira_stream_records_in_pipeline") == 0

    until(all_ended, f"wave {wave} is scored", seconds=60)


def _weeks_ago(page: Scrape, address: str) -> dict[str, list[tuple[float, float]]]:
    """The scores of the first wave as those of an hour, three hours ago: drift is told against the week before."""
    names = ("mira_stream_reply_score_points_sum", "mira_stream_reply_score_points_count")
    then = time.time() - 3 * 3600
    history = {}
    for sample in page.samples["mira_stream_reply_score_points"]:
        if sample.name in names:
            labels = {**sample.labels, "instance": address, "job": "mira-stream"}
            series = ",".join(f'{name}="{value}"' for name, value in labels.items())
            history[f"{sample.name}{{{series}}}"] = [(then, 0.0), (then + 3600, sample.value)]
    return history


def _until_scraped(found: Prometheus, read: float) -> None:
    def scraped() -> bool:
        samples = found.query("sum(mira_stream_records_read_total)")
        return bool(samples) and float(samples[0]["value"][1]) >= read

    until(scraped, "Prometheus has seen the wave")


def _until_all_show(found: Prometheus) -> None:
    """Some need a rule to be evaluated once more; what is still empty then is wrong."""
    queries = dict(_queries())
    deadline = time.monotonic() + QUICKLY_SECONDS
    empty = dict(queries)
    while empty and time.monotonic() < deadline:
        empty = {where: expr for where, expr in empty.items() if not found.query(expr)}
    assert len(queries) > 100
    assert not empty


def _queries() -> Iterator[tuple[str, str]]:
    for file in sorted(DASHBOARDS.glob("*.json")):
        board = json.loads(file.read_text("utf-8"))
        for panel in board["panels"]:
            for target in panel.get("targets", ()):
                yield f"{file.stem}: {panel['title']} {target['refId']}", _asked(target["expr"])
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                series = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
                assert series is not None, variable
                yield f"{file.stem}: ${variable['name']}", f"count by ({series[2]}) ({_asked(series[1])})"


def _asked(expr: str) -> str:
    """As Grafana asks it with all values chosen."""
    known = {
        "__rate_interval": "1m",
        **dict.fromkeys(("instance", "group", "replica", "source", "slot"), ".*"),
    }
    return re.sub(r"\$(\w+)", lambda match: known[match[1]], expr)
