"""An audit that is interrupted anywhere goes on, and comes to what it would have come to."""

import asyncio
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from mira_stream.audit.report import Audit
from mira_stream.audit.resume import SAVE_SECONDS, Resume
from mira_stream.audit.verify import Progress, Scope, verify
from mira_stream.core.errors import Refusal
from mira_stream.core.outcome import Reason
from mira_stream.core.partition import partition_name
from mira_stream.core.record import ObjectVersion
from mira_stream.core.segment import Plan
from mira_stream.sink.format import encode_segment, segment_key
from mira_stream.sink.reader import SegmentReader
from mira_stream.sink.retry import Patience
from mira_stream.sink.settings import SinkSettings
from tests.fakes.memory_source import MemorySource
from tests.fakes.memory_store import MemoryStore
from tests.fakes.segments import plan, row

SETTINGS = SinkSettings(uri="unused", retry_initial_seconds=0.001, retry_max_seconds=0.001)
ABOUT = ("s3://lake/raw", "s3://lake/scores")
NAMES = [f"source-{n}" for n in range(4)]


class Interrupted(Exception):
    """What a test ends an audit with."""


def _version(name: str) -> ObjectVersion:
    return ObjectVersion(f"s3://lake/raw/{name}/x.jsonl", "e")


def _plans() -> list[Plan]:
    plans: list[Plan] = []
    for name in NAMES:
        version, partition = _version(name), partition_name(name, _version(name).uri, 1)
        plans += [
            plan([row(version, 0), row(version, 1, reason=Reason.NO_TEXT)], partition=partition),
            plan([row(version, 2)], partition=partition, seq=1, lines=[(version, 3)]),
            plan([row(version, 1, generation=1)], partition=partition, seq=2),
        ]
    return plans


def _lake(*, lost: bool) -> tuple[MemorySource, MemoryStore]:
    """Four partitions of three segments, one of them without its second if something is to be found."""
    store = MemoryStore()
    for one in _plans():
        store.put(segment_key(one.partition, one.seq), encode_segment(one, level=1))
    if lost:
        doubled = _plans()[1]
        again = plan([row(_version(NAMES[0]), 2)], partition=doubled.partition, seq=3)
        store.put(segment_key(again.partition, again.seq), encode_segment(again, level=1))
    return MemorySource({_version(name): 3 for name in NAMES}), store


def _audit(
    source: MemorySource,
    store: MemoryStore,
    *,
    scope: Scope,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Audit:
    with ThreadPoolExecutor(1) as executor:
        sink = SegmentReader(store, patience=Patience(SETTINGS, tries_max=2), executor=executor)
        return asyncio.run(verify(source, sink, scope=scope, on_progress=on_progress))


class Stopping:
    """Ends an audit at every `patience`-th step of its way, `times` times in all."""

    def __init__(self, patience: int, times: int) -> None:
        self._patience = patience
        self._times = times
        self._steps = 0

    def __call__(self, _: Progress) -> None:
        self._steps += 1
        if self._times and self._steps % self._patience == 0:
            self._times -= 1
            raise Interrupted


def _audit_in_parts(source: MemorySource, store: MemoryStore, path: Path, stop: Stopping) -> Audit:
    ticks = itertools.count(step=SAVE_SECONDS)
    while True:
        scope = Scope(resume=Resume(path, ABOUT, clock=lambda: next(ticks)))  # due at every step
        try:
            return _audit(source, store, scope=scope, on_progress=stop)
        except Interrupted:
            assert path.exists()


@pytest.mark.parametrize("patience", [*range(1, 30), 40])
def test_an_audit_goes_on_wherever_it_was_interrupted(tmp_path: Path, patience: int) -> None:
    """Interrupted again and again: the result is that of one that was not, good or bad, and no file is left."""
    for lost in (False, True):
        whole = _audit(*_lake(lost=lost), scope=Scope())
        assert (whole.exit_code, whole.replayed_rows) == (int(lost), len(NAMES))
        path = tmp_path / "state"
        assert _audit_in_parts(*_lake(lost=lost), path, Stopping(patience, times=9)) == whole
        assert not path.exists()


def test_what_was_read_is_not_read_again(tmp_path: Path) -> None:
    """Of partitions that were read no segment, of objects that were read no line."""
    source, store = _lake(lost=False)
    path = tmp_path / "state"

    def stop(progress: Progress) -> None:
        if progress.objects == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        _audit(source, store, scope=Scope(resume=Resume(path, ABOUT)), on_progress=stop)
    before, told = list(source.reads), list[Progress]()
    audit = _audit(source, store, scope=Scope(resume=Resume(path, ABOUT)), on_progress=told.append)
    assert audit.exit_code == 0
    assert (audit.segments, audit.source_lines) == (12, 12)
    assert len(before) == 3
    assert source.reads[len(before) :] == [_version(name) for name in NAMES[2:]]
    assert min(progress.segments for progress in told) == 12


def test_what_came_meanwhile_is_read(tmp_path: Path) -> None:
    """Segments that were published, and objects that were landed, between the interruption and the next try."""
    source, store = _lake(lost=False)
    path, (new, late) = tmp_path / "state", (_version("source-9"), _version(NAMES[0]))

    def stop(progress: Progress) -> None:
        if progress.objects == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        _audit(source, store, scope=Scope(resume=Resume(path, ABOUT)), on_progress=stop)
    partition = partition_name(NAMES[0], late.uri, 1)
    more = [
        plan([row(late, 1, generation=2)], partition=partition, seq=3),
        plan([row(new, 0)], partition=partition_name("source-9", new.uri, 1), lines=[(new, 1)]),
    ]
    for one in more:
        store.put(segment_key(one.partition, one.seq), encode_segment(one, level=1))
    source.ends[new] = 1
    resumed = _audit(source, store, scope=Scope(resume=Resume(path, ABOUT)))
    assert resumed == _audit(source, store, scope=Scope())
    assert (resumed.partitions, resumed.segments, resumed.pending) == (5, 14, 0)


def test_a_state_of_something_else_is_refused(tmp_path: Path) -> None:
    """One of another lake, one that is damaged, and one that cannot be read, with what to do."""
    path = tmp_path / "state"
    Resume(path, ABOUT).save()
    with pytest.raises(Refusal, match="of another audit"):
        Resume(path, (*ABOUT, "source=a/shard=00"))
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(Refusal, match="cannot be understood"):
        Resume(path, ABOUT)
    with pytest.raises(Refusal, match="cannot be read"):
        Resume(tmp_path, ABOUT)


def test_some_partitions_can_be_audited_alone() -> None:
    """What is wrong elsewhere is not looked at; a name that the sink does not have is refused."""
    source, store = _lake(lost=True)

    def scope(*names: str) -> Scope:
        return Scope(
            partitions=frozenset(partition_name(name, _version(name).uri, 1) for name in names),
            partition_of=lambda seen: partition_name(seen.version.uri.split("/")[-2], seen.version.uri, 1),
        )

    parts = [_audit(source, store, scope=scope(name)) for name in NAMES]
    assert [part.exit_code for part in parts] == [1, 0, 0, 0]
    whole = _audit(source, store, scope=Scope())
    for field in ("partitions", "segments", "rows", "objects", "source_lines", "ended_objects"):
        assert sum(getattr(part, field) for part in parts) == getattr(whole, field)
    assert _audit(source, store, scope=scope(*NAMES)) == whole
    with pytest.raises(Refusal, match="no partition source=none"):
        _audit(source, store, scope=scope("none"))


def test_a_replay_of_what_was_never_published_is_found() -> None:
    """A generation without the one below it means that a row was lost."""
    source, store = _lake(lost=False)
    odd = plan([row(_version(NAMES[0]), 0, generation=2)], partition=_plans()[0].partition, seq=3)
    store.put(segment_key(odd.partition, odd.seq), encode_segment(odd, level=1))
    audit = _audit(source, store, scope=Scope())
    assert (audit.exit_code, audit.lost) == (1, 1)
    assert "generation 1 of them is absent" in audit.faults[0].message
    assert msgspec.json.decode(msgspec.json.encode(audit))["replayed_rows"] == len(NAMES) + 1
