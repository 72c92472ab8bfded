"""The arithmetic of checkpoints: however a chain is cut into them, the last one says what the segments say."""

from hypothesis import given
from hypothesis import strategies as st

from mira_stream.control.intervals import IntervalSet
from mira_stream.control.known import Chain
from mira_stream.core.segment import Cumulated, ObjectLines, ObjectRange, Trailer
from mira_stream.sink.checkpoints import CheckpointFile, Folding

PARTITION = "source=x/shard=00"
Held = dict[tuple[str, int], set[int]]
_held = st.dictionaries(
    st.tuples(st.sampled_from(["a", "b", "ü c", "d"]), st.integers(0, 2)),
    st.sets(st.integers(0, 40), min_size=1),
    max_size=4,
)
_ends = st.dictionaries(st.sampled_from(["a", "ü c", "z"]), st.integers(0, 50), max_size=2)
_chain = st.lists(st.tuples(_held, _ends), min_size=1, max_size=12)


def _trailer(seq: int, held: Held, ends: dict[str, int]) -> Trailer:
    ranges = [
        ObjectRange(uri, "e", generation, IntervalSet.from_ordinals(ordinals).spans)
        for (uri, generation), ordinals in sorted(held.items())
    ]
    lines = tuple(ObjectLines(uri, "e", count) for uri, count in ends.items())
    return Trailer(PARTITION, seq, f"{seq:032x}", tuple(ranges), lines)


def _expected(chain: list[tuple[Held, dict[str, int]]]) -> list[Cumulated]:
    held: Held = {}
    lines: dict[str, int] = {}
    for more, ends in chain:
        for key, ordinals in more.items():
            held.setdefault(key, set()).update(ordinals)
        for uri, count in ends.items():
            lines[uri] = max(lines.get(uri, 0), count)
    keys = sorted({*held, *((uri, 0) for uri in lines)})
    return [
        Cumulated(
            uri,
            "e",
            generation,
            IntervalSet.from_ordinals(held.get((uri, generation), set())).spans,
            lines.get(uri) if generation == 0 else None,
        )
        for uri, generation in keys
    ]


@given(_chain, st.sets(st.integers(0, 11)), st.sets(st.integers(0, 11)))
def test_a_checkpoint_is_the_sum_of_its_segments(
    chain: list[tuple[Held, dict[str, int]]], checkpoints: set[int], folds: set[int]
) -> None:
    """Whatever checkpoints stand in between, and however often it was folded on the way."""
    base: CheckpointFile | None = None
    folding = Folding(PARTITION, base, level=1)
    last = len(chain) - 1
    for seq, (held, ends) in enumerate(chain):
        folding.add(_trailer(seq, held, ends))
        if seq in folds:
            folding.fold()
        if seq in checkpoints or seq == last:
            base = CheckpointFile(folding.finished(), "here")
            folding = Folding(PARTITION, base, level=1)
            assert base.plan_id(seq) == f"{seq:032x}"
    assert base is not None
    assert list(base.entries()) == _expected(chain)
    assert base.seq == last


@given(st.sets(st.integers(0, 60)), st.integers(-1, 60))
def test_a_chain_misses_what_stands_above_its_checkpoint(held: set[int], checkpoint: int) -> None:
    """What a checkpoint covers may be gone; above it every seq below the last must be there."""
    chain = Chain(IntervalSet.from_ordinals(held), checkpoint)
    end = max([checkpoint, *held], default=-1) + 1
    assert chain.end == end
    assert set(chain.missing.ordinals()) == set(range(checkpoint + 1, end)) - held
