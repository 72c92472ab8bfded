"""Text from outside, for people."""

from hypothesis import given
from hypothesis import strategies as st

from mira_stream.core.visible import clipped, shown


@given(st.text())
def test_what_cannot_be_seen_is_replaced(text: str) -> None:
    """Nothing else changes, and not the length."""
    found = shown(text)
    assert found.isprintable() or "\N{REPLACEMENT CHARACTER}" in found
    assert len(found) == len(text)
    assert all(new in (old, "\N{REPLACEMENT CHARACTER}") for old, new in zip(text, found, strict=True))


@given(st.text(), st.integers(2, 40))
def test_a_clipped_text_is_one_line_of_a_bounded_length(text: str, chars_max: int) -> None:
    """An ellipsis says that there is more."""
    found = clipped(text, chars_max)
    assert len(found) <= chars_max
    assert "\n" not in found
    assert found.endswith("…") or found == shown(" ".join(text.split()))


def test_short_text_stays() -> None:
    """White space apart."""
    assert clipped(" so\n it  is ", 20) == "so it is"
    assert clipped("abcdef", 4) == "abc…"
    assert clipped("\x1b[31mred\u202e", 20) == "\ufffd[31mred\ufffd"
