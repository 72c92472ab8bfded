"""The mask and the aggregate: what counts, what does not, and which files are refused."""

import msgspec
import pytest

from mira_stream.core.aggregate import AggregateSettings, Aggregator
from mira_stream.core.errors import Refusal
from mira_stream.core.mask import (
    Bootstrap,
    Cell,
    Mask,
    Pairing,
    Policy,
    Thresholds,
    Trust,
    encode_mask,
    parse_mask,
)
from mira_stream.core.row import SLOTS

SCORES = [float(number % 11) for number in range(15)]


def mask(*cells: Cell, unknown: Policy = Policy.KEEP) -> Mask:
    return Mask(
        group="agent/A",
        rubric_fingerprint="f" * 32,
        unknown=unknown,
        thresholds=Thresholds(),
        bootstrap=Bootstrap(),
        inputs=(),
        pairing=Pairing(paired=0, teacher_only=0, student_only=0),
        cells=cells,
    )


def cell(source: str, slot: str, trust: Trust) -> Cell:
    return Cell(source=source, slot=slot, trust=trust, pairs=50)


def test_masked_slots_do_not_count_and_are_named() -> None:
    """Only those of the record's own source."""
    aggregator = Aggregator(AggregateSettings(trim_fraction=0), mask(cell("a", "A1", Trust.MASKED)))
    assert aggregator.of("a", SCORES).masked == ("A1",)
    assert aggregator.of("a", SCORES).value == round(sum(SCORES[1:]) / 14, 6)
    assert aggregator.of("b", SCORES).masked == ()
    assert aggregator.of("b", SCORES).value == round(sum(SCORES) / 15, 6)


def test_a_record_of_which_nothing_is_left_has_no_score() -> None:
    """Not zero."""
    aggregator = Aggregator(
        AggregateSettings(), mask(*(cell("a", slot, Trust.MASKED) for slot in sorted(SLOTS)))
    )
    assert aggregator.of("a", SCORES).value is None
    assert aggregator.of("a", SCORES).masked == SLOTS


@pytest.mark.parametrize(("unknown", "counts"), [(Policy.KEEP, True), (Policy.MASK, False)])
def test_unknown_cells_follow_the_policy(unknown: Policy, counts: bool) -> None:
    """Cells said to be unknown, cells that are not named, and sources that are not."""
    known = [cell("a", slot, Trust.KEPT) for slot in SLOTS if slot not in ("A1", "A2")]
    aggregator = Aggregator(
        AggregateSettings(), mask(*known, cell("a", "A1", Trust.UNKNOWN), unknown=unknown)
    )
    assert aggregator.of("a", SCORES).masked == (() if counts else ("A1", "A2"))
    assert (aggregator.of("never seen", SCORES).value is not None) is counts


def test_a_mask_survives_its_file() -> None:
    """Same mask, same bytes, same fingerprint."""
    one = mask(cell("a", "A1", Trust.MASKED))
    assert parse_mask(encode_mask(one), "m.json") == one
    assert encode_mask(parse_mask(encode_mask(one), "m.json")) == encode_mask(one)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": "other"}, "not a mask"),
        ({"version": 2}, "version 2"),
        ({"unknown": "drop"}, "unknown"),
        ({"cells": [{"source": "a", "slot": "A1", "trust": "kept", "pairs": 1}] * 2}, "twice"),
        ({"cells": [{"source": "a", "slot": "B1", "trust": "kept", "pairs": 1}]}, "B1"),
        ({"more": 1}, "more"),
    ],
    ids=["format", "version", "policy", "twice", "slot", "field"],
)
def test_what_is_no_mask_is_refused(change: dict[str, object], says: str) -> None:
    """With the file's name and what is wrong with it."""
    data = msgspec.json.encode(msgspec.to_builtins(mask()) | change)
    with pytest.raises(Refusal, match=says) as refusal:
        parse_mask(data, "m.json")
    assert "m.json" in str(refusal.value)


def test_a_weight_of_no_slot_is_refused() -> None:
    """Names of criteria repeat: they are no keys."""
    with pytest.raises(Refusal, match="Goal"):
        Aggregator(AggregateSettings(weights={"Goal Achievement": 2.0}))


def test_settings_and_mask_are_in_the_fingerprint() -> None:
    """Two numbers made differently never look alike."""
    masked = mask(cell("a", "A1", Trust.MASKED))
    made = [
        Aggregator(AggregateSettings()),
        Aggregator(AggregateSettings(trim_fraction=0.2)),
        Aggregator(AggregateSettings(weights={"A1": 2.0})),
        Aggregator(AggregateSettings(), masked),
    ]
    assert len({one.fingerprint for one in made}) == len(made)
