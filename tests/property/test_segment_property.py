"""Whatever is in a segment and wherever it is cut: it comes back whole, or it is refused."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from mira_stream.core.errors import Corrupt
from mira_stream.core.record import ObjectVersion
from mira_stream.core.segment import Plan
from mira_stream.sink.format import RowDecoder, decode_rows, encode_segment, read_trailer, trailer_bytes
from tests.fakes.segments import A, plan, row

_text = st.text(st.characters(codec="utf-8"), max_size=30)
_versions = st.builds(ObjectVersion, _text.map(lambda s: "s3://b/" + s), _text)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Plans of a few rows over a few objects, in any order."""
    keys = draw(
        st.lists(
            st.tuples(_versions, st.integers(0, 50), st.integers(0, 2)), min_size=1, max_size=8, unique=True
        )
    )
    rows = [row(version, n, generation=generation, brief=draw(_text)) for version, n, generation in keys]
    lines = {version: draw(st.integers(0, 99)) for version, _, _ in keys}
    return plan(rows, seq=draw(st.integers(0, 10**9)), lines=lines.items())


@given(plans(), st.integers(1, 9))
def test_a_segment_comes_back_as_it_was(a_plan: Plan, level: int) -> None:
    """Trailer and rows survive any text in names and columns."""
    data = encode_segment(a_plan, level=level)
    assert read_trailer(data) == a_plan.trailer
    assert len(list(decode_rows(data))) == len(a_plan.rows)


SMALL = encode_segment(plan([row(A, n, brief="x" * 50) for n in range(3)], lines=[(A, 3)]), level=3)


def _is_refused(data: bytes) -> bool:
    try:
        trailer = read_trailer(data)
        lines = list(decode_rows(data))
    except Corrupt:
        return True
    assert (trailer, lines) == (read_trailer(SMALL), list(decode_rows(SMALL)))
    return False


def test_a_segment_cut_at_any_byte_is_refused() -> None:
    """No prefix and no suffix of a file passes for a segment (a suffix keeps its trailer, but not its rows)."""
    for cut in range(len(SMALL)):
        assert _is_refused(SMALL[:cut]), cut
    for cut in range(1, len(SMALL)):
        assert _is_refused(SMALL[cut:]), cut


@given(st.integers(0, len(SMALL) - 1), st.integers(1, 255))
@settings(max_examples=300)
def test_a_changed_byte_is_refused_or_changes_nothing(at: int, mask: int) -> None:
    """Bit rot in the data frame never gives other rows; in the trailer's text an audit has to find it."""
    changed = bytearray(SMALL)
    changed[at] ^= mask
    if at < len(SMALL) - trailer_bytes(SMALL):
        _is_refused(bytes(changed))


@given(st.lists(st.integers(0, len(SMALL)), max_size=8))
def test_any_split_of_the_bytes_gives_the_same_rows(cuts: list[int]) -> None:
    """How the file is fetched does not matter."""
    frame = SMALL[: -trailer_bytes(SMALL)]
    bounds = [0, *sorted(min(c, len(frame)) for c in cuts), len(frame)]
    decoder = RowDecoder()
    lines: list[bytes] = []
    for start, end in pairwise(bounds):
        for batch in decoder.feed(frame[start:end]):
            lines.extend(batch)
    decoder.close()
    assert lines == list(decode_rows(SMALL))
