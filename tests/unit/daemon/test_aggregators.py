"""The aggregate of live rows: masks belong to rubrics, and the row says what was left out."""

from pathlib import Path

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
)
from mira_stream.core.record import ObjectVersion, RecordKey
from mira_stream.core.reply import parse
from mira_stream.core.row import SLOTS, Row
from mira_stream.daemon.aggregators import load_aggregators
from mira_stream.daemon.config import AggregateSection, parse_config
from mira_stream.daemon.pools import PoolPlan, plan_pools
from mira_stream.pipeline.rows import Answer, Fingerprints, RowMaker, Subject

CONFIG = '[source]\nuri = "/lake"\n[sink]\nuri = "/scores"\n[[pool]]\ngroup = "agent/A"\nreplicas = ["http://gpu:1"]'
REPLY = "\n".join(
    [
        *(f"[{slot}] name: {n % 11}/10 — because" for n, slot in enumerate(SLOTS)),
        "overall: 50",
        "training_recommendation: keep",
        "domain_tag: code",
        "brief: fine",
    ]
)


def plans() -> tuple[PoolPlan, ...]:
    return plan_pools(parse_config(CONFIG, "test"))


def mask(rubric: str) -> Mask:
    return Mask(
        group="agent/A",
        rubric_fingerprint=rubric,
        unknown=Policy.KEEP,
        thresholds=Thresholds(),
        bootstrap=Bootstrap(),
        inputs=(),
        pairing=Pairing(paired=0, teacher_only=0, student_only=0),
        cells=(Cell(source="claude_cli", slot="A1", trust=Trust.MASKED, pairs=50),),
    )


def write(path: Path, one: Mask) -> str:
    path.write_bytes(encode_mask(one))
    return str(path)


def test_a_live_row_has_the_number_that_is_made_offline(tmp_path: Path) -> None:
    """The same function on the same scores, and the slots that did not count."""
    fingerprint = plans()[0].rubric.fingerprint
    one = mask(fingerprint)
    section = AggregateSection(enabled=True, masks=(write(tmp_path / "mask.json", one),))
    rows = RowMaker(
        shards=1,
        now=lambda: "2026-01-01T00:00:00Z",
        keep_reply=False,
        aggregators=load_aggregators(section, plans()),
    )
    subject = Subject(key=RecordKey(ObjectVersion("file:///x", "e"), 0), source="claude_cli")
    answer = Answer(fingerprints=Fingerprints(fingerprint, "p"), attempts=1, parsed=parse(REPLY, "stop"))
    row = msgspec.json.decode(rows.answered(subject, answer, None).encoded, type=Row)
    offline = Aggregator(AggregateSettings(), one)
    assert row.aggregate == offline.of("claude_cli", [float(n % 11) for n in range(15)]).value
    assert row.masked == ("A1",)
    assert row.aggregate_fingerprint == offline.fingerprint


def test_nothing_is_aggregated_unless_it_is_asked_for() -> None:
    """A number that nobody made sure of is not in the sink."""
    assert not load_aggregators(AggregateSection(), plans())


def test_a_mask_for_another_rubric_is_refused(tmp_path: Path) -> None:
    """Its cells are about other questions."""
    section = AggregateSection(enabled=True, masks=(write(tmp_path / "old.json", mask("0" * 32)),))
    with pytest.raises(Refusal, match=r"old\.json is for rubric 0{32}, which no pool scores on"):
        load_aggregators(section, plans())


def test_two_masks_for_one_rubric_are_refused(tmp_path: Path) -> None:
    """Neither is the right one."""
    one = mask(plans()[0].rubric.fingerprint)
    files = (write(tmp_path / "a.json", one), write(tmp_path / "b.json", one))
    with pytest.raises(Refusal, match=r"b\.json is a second mask"):
        load_aggregators(AggregateSection(enabled=True, masks=files), plans())


def test_a_mask_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """With its path."""
    with pytest.raises(Refusal, match=r"cannot read .*none\.json"):
        load_aggregators(AggregateSection(enabled=True, masks=(str(tmp_path / "none.json"),)), plans())
