"""The audit trusts nothing: each planted fault is found, and nothing else is called a fault."""

import asyncio
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
import zstandard

from mira_stream.audit.report import FAULTS_KEPT, Audit, FaultKind, lines
from mira_stream.audit.verify import Progress, verify
from mira_stream.core.errors import Missing, Permanent, Transient, TransientKind
from mira_stream.core.outcome import Outcome, Reason
from mira_stream.core.partition import partition_name
from mira_stream.core.record import ObjectVersion
from mira_stream.core.row import Row
from mira_stream.core.segment import ObjectRange, Plan
from mira_stream.core.sight import ObjectEnd
from mira_stream.sink.checkpoints import checkpoint_key
from mira_stream.sink.format import decode_rows, encode_segment, segment_key, trailer_bytes
from mira_stream.sink.reader import SegmentReader
from mira_stream.sink.retry import Patience
from mira_stream.sink.segments import SegmentSink
from mira_stream.sink.settings import SinkSettings
from tests.fakes.memory_source import MemorySource
from tests.fakes.memory_store import FaultyStore, MemoryStore, failing
from tests.fakes.segments import PARTITION, A, plan, row

SETTINGS = SinkSettings(uri="unused", retry_initial_seconds=0.001, retry_max_seconds=0.001)
LOST = Transient(TransientKind.RESET, "connection reset")
B = ObjectVersion("s3://lake/raw/codex/b.jsonl.zst", "etag-b")
LOCAL = ObjectVersion("file:///lake/raw/x/c.jsonl", "etag-c")
OTHER = partition_name("codex", B.uri, 1)


def _put(store: MemoryStore, *plans: Plan) -> None:
    for a_plan in plans:
        store.put(segment_key(a_plan.partition, a_plan.seq), encode_segment(a_plan, level=1))


def _lake() -> tuple[MemorySource, MemoryStore]:
    """Two objects, of 10 and 3 rows, scored whole in four segments of two chains."""
    store = MemoryStore()
    _put(
        store,
        plan([row(A, n) for n in (1, 0, 3, 2)], seq=0),
        plan([row(A, n) for n in (4, 5, 7)], seq=1),
        plan([row(A, n) for n in (6, 8, 9)], seq=2, lines=[(A, 10)]),
        plan([row(B, 0), row(B, 1, reason=Reason.BLANK), row(B, 2)], partition=OTHER, lines=[(B, 3)]),
    )
    store.put("_mira_stream/layout.json", b"{}")
    return MemorySource({A: 10, B: 3}), store


def _verify(
    source: MemorySource,
    store: MemoryStore | FaultyStore,
    *,
    chains: Mapping[str, int] | None = None,
    strict: bool = False,
    told: list[Progress] | None = None,
) -> Audit:
    with ThreadPoolExecutor(1) as executor:
        sink = SegmentReader(store, patience=Patience(SETTINGS, tries_max=3), executor=executor)
        on_progress = told.append if told is not None else lambda _: None
        return asyncio.run(
            verify(source, sink, ledger_chains=chains or {}, strict=strict, on_progress=on_progress)
        )


def _kinds(audit: Audit) -> dict[str, int]:
    return {kind.value: count for kind, count in audit.found.items()}


def _rewrite(store: MemoryStore, seq: int, rows: Iterable[Row | bytes]) -> None:
    """Replace the rows of a segment and keep its trailer, as somebody with an editor could."""
    old = store.objects[segment_key(PARTITION, seq)]
    raw = b"".join((r if isinstance(r, bytes) else msgspec.json.encode(r)) + b"\n" for r in rows)
    data = zstandard.ZstdCompressor(write_checksum=True).compress(raw)
    store.put(segment_key(PARTITION, seq), data + old[-trailer_bytes(old) :])


def test_a_whole_lake_is_clean() -> None:
    """Every row once, none lost: exit 0, also with the ledger's chains and under `strict`."""
    told: list[Progress] = []
    audit = _verify(*_lake(), chains={PARTITION: 3, OTHER: 1}, strict=True, told=told)
    assert (_kinds(audit), audit.exit_code) == ({}, 0)
    assert (audit.partitions, audit.segments, audit.rows) == (2, 4, 13)
    assert (audit.objects, audit.source_lines, audit.ended_objects, audit.pending) == (2, 13, 2, 0)
    assert audit.outcomes == {Outcome.SCORED: 12, Outcome.SKIPPED: 1}
    assert audit.reasons == {Reason.BLANK: 1}
    assert told[-1] == Progress(segments=4, rows=13, objects=2, source_lines=13)
    assert lines(audit)[-1] == "CLEAN    every row exactly once, none lost"


def test_an_empty_lake_is_clean() -> None:
    """Nothing there is nothing wrong; an object without lines needs no row."""
    assert _verify(MemorySource({A: 0}), MemoryStore(), strict=True).exit_code == 0


def test_what_is_not_scored_yet_is_pending() -> None:
    """Lines beyond what the sink has are pending: no fault, unless `strict` asks."""
    source, store = _lake()
    del store.objects[segment_key(PARTITION, 2)]
    source.ends[ObjectVersion("s3://lake/raw/new.jsonl", "n")] = 5
    audit = _verify(source, store)
    assert (audit.exit_code, audit.pending, audit.pending_objects) == (0, 3 + 5, 2)
    assert _verify(source, store, strict=True).exit_code == 1


def test_a_segment_removed_from_the_middle_is_found() -> None:
    """The chain has a gap, and its rows are lost."""
    source, store = _lake()
    del store.objects[segment_key(PARTITION, 1)]
    audit = _verify(source, store)
    assert (_kinds(audit), audit.exit_code) == ({"gap": 1, "lost": 3}, 1)
    assert audit.lost == 3
    assert any("ordinals 4–5, 7" in fault.message for fault in audit.faults)


def test_removed_last_segments_are_found_with_the_ledger() -> None:
    """Without the ledger their rows are pending; its chains tell that they were published."""
    source, store = _lake()
    del store.objects[segment_key(PARTITION, 2)]
    del store.objects[segment_key(OTHER, 0)]
    assert _verify(source, store).exit_code == 0
    audit = _verify(source, store, chains={PARTITION: 3, OTHER: 1})
    assert (_kinds(audit), audit.exit_code) == ({"gap": 2}, 1)
    assert "the ledger knows it as published" in audit.faults[0].message


def test_rows_in_two_segments_are_found() -> None:
    """A well-formed segment that repeats rows doubles them, also in another partition."""
    source, store = _lake()
    _put(store, plan([row(A, 4), row(A, 9)], seq=3))
    _put(store, plan([row(A, 0)], partition=OTHER, seq=1))
    audit = _verify(source, store)
    assert (_kinds(audit), audit.doubled, audit.exit_code) == ({"doubled": 3}, 3, 1)


def test_a_row_twice_in_one_segment_is_found() -> None:
    """The trailer's ranges cannot hide it."""
    source, store = _lake()
    _put(store, plan([row(B, 0), row(B, 1), row(B, 1), row(B, 2)], partition=OTHER, lines=[(B, 3)]))
    audit = _verify(source, store)
    assert (_kinds(audit), audit.exit_code) == ({"doubled": 1}, 1)


def test_a_replay_is_no_double() -> None:
    """The same record in a later generation is published beside the first; twice in one generation is not."""
    source, store = _lake()
    _put(store, plan([row(A, 4, generation=1), row(A, 5, generation=1)], seq=3))
    assert _verify(source, store, strict=True).exit_code == 0
    _put(store, plan([row(A, 4, generation=1)], seq=4))
    assert _kinds(_verify(source, store)) == {"doubled": 1}


def _segment_rows(store: MemoryStore, seq: int) -> list[bytes]:
    return list(decode_rows(store.objects[segment_key(PARTITION, seq)]))


def test_a_changed_row_is_found() -> None:
    """One score edited in place: the plan_id gives it away."""
    source, store = _lake()
    rows = _segment_rows(store, 1)
    changed = rows[1].replace(b'"A1":7.5', b'"A1":9.5')
    assert changed != rows[1]
    _rewrite(store, 1, [rows[0], changed, rows[2]])
    audit = _verify(source, store)
    assert (_kinds(audit), audit.exit_code) == ({"changed": 1}, 1)
    assert "plan_id" in audit.faults[0].message


def test_a_missing_row_is_found() -> None:
    """A row taken out of a segment whose trailer still lists it: changed, and lost."""
    source, store = _lake()
    _rewrite(store, 1, _segment_rows(store, 1)[:-1])
    assert _kinds(_verify(source, store)) == {"changed": 2, "lost": 1}


def test_rows_in_another_order_are_found() -> None:
    """A plan is ordered."""
    source, store = _lake()
    _rewrite(store, 1, reversed(_segment_rows(store, 1)))
    assert _kinds(_verify(source, store)) == {"changed": 1}


def test_a_row_under_another_identity_is_found() -> None:
    """record_id, segment and outcome are recomputed, not believed."""
    source, store = _lake()
    forged = plan([msgspec.structs.replace(row(B, n), record_id="f" * 32) for n in range(3)], partition=OTHER)
    _put(store, forged)
    assert _kinds(_verify(source, store)) == {"changed": 3}
    _put(
        store,
        plan([msgspec.structs.replace(row(B, n), reason=Reason.BLANK) for n in range(3)], partition=OTHER),
    )
    assert _kinds(_verify(source, store)) == {"changed": 3}
    source, store = _lake()
    rows = _segment_rows(store, 1)
    _rewrite(store, 1, [rows[0], rows[1].replace(b"/00000001#", b"/00000002#"), rows[2]])
    assert _kinds(_verify(source, store)) == {"changed": 2}


def test_a_row_that_is_no_row_is_found() -> None:
    """Lines that cannot be decoded are reported one by one, and the audit goes on."""
    source, store = _lake()
    _rewrite(store, 1, [b"{}", b"\xff\xfe", *_segment_rows(store, 1)])
    audit = _verify(source, store)
    assert _kinds(audit) == {"changed": 2}


def test_swapped_segments_are_found() -> None:
    """Two files that changed their names, and a trailer put behind other rows."""
    source, store = _lake()
    first, second = segment_key(PARTITION, 0), segment_key(PARTITION, 1)
    store.objects[first], store.objects[second] = store.objects[second], store.objects[first]
    audit = _verify(source, store)
    assert _kinds(audit) == {"corrupt": 2, "lost": 7}
    assert "its trailer is that of" in audit.faults[0].message

    source, store = _lake()
    data, other = store.objects[second], store.objects[first]
    store.put(second, other[: -trailer_bytes(other)] + data[-trailer_bytes(data) :])
    kinds = _kinds(_verify(source, store))
    assert kinds == {"changed": 6, "doubled": 4, "lost": 3}


def test_a_trailer_with_other_ranges_is_found() -> None:
    """Ranges that claim more than the rows, even more than memory could hold."""
    source, store = _lake()
    good = plan([row(B, 0), row(B, 1), row(B, 2)], partition=OTHER, lines=[(B, 3)])
    for spans in (((0, 4),), ((0, 10**15),), ((1, 4),), ((0, 2),)):
        claimed = msgspec.structs.replace(good.trailer, ranges=(ObjectRange(B.uri, B.etag, 0, spans),))
        _put(store, msgspec.structs.replace(good, trailer=claimed))
        assert _kinds(_verify(source, store)) == {"changed": 1}


@pytest.mark.parametrize("cut", [1, 12, 200, 400])
def test_a_cut_segment_is_found(cut: int) -> None:
    """A torn upload or a bad disk: corrupt, and its rows are lost."""
    source, store = _lake()
    key = segment_key(PARTITION, 1)
    store.put(key, store.objects[key][:-cut])
    assert _kinds(_verify(source, store)) == {"corrupt": 1, "lost": 3}


def test_damage_in_the_data_is_found() -> None:
    """A flipped bit under an intact trailer, a second frame, and padding."""
    source, store = _lake()
    key = segment_key(PARTITION, 1)
    whole = store.objects[key]
    size = trailer_bytes(whole)
    frame, end = whole[:-size], whole[-size:]
    flipped = bytearray(frame)
    flipped[len(frame) // 2] ^= 0x10
    for data in (bytes(flipped) + end, frame + frame + end, frame + b"\0" + end, frame[:-4] + end):
        store.put(key, data)
        assert _kinds(_verify(source, store)) == {"corrupt": 1, "lost": 3}


def test_foreign_files_are_named_and_copies_are_faults() -> None:
    """A README does no harm; what a reader's `*.jsonl.zst` takes in, and no chain has, doubles rows."""
    source, store = _lake()
    store.put("source=claude_cli/README.txt", b"hello")
    store.put("_mira_stream/probe/x.jsonl.zst", b"ours")
    audit = _verify(source, store, strict=True)
    assert (audit.exit_code, audit.foreign_files) == (0, 1)
    assert audit.foreign_names == ("source=claude_cli/README.txt",)
    assert any("README.txt" in line for line in lines(audit))
    store.put(f"{PARTITION}/00000001 (copy).jsonl.zst", store.objects[segment_key(PARTITION, 1)])
    audit = _verify(source, store)
    assert (_kinds(audit), audit.exit_code) == ({"stray": 1}, 1)


@pytest.mark.parametrize("told", [9, 11])
def test_an_object_with_another_number_of_rows_is_found(told: int) -> None:
    """The sink calls an object ended that is longer or shorter in the source: nobody would read the rest."""
    source, store = _lake()
    source.ends[A] = told
    audit = _verify(source, store)
    assert (_kinds(audit), audit.exit_code) == ({"miscounted": 1}, 1)


def test_rows_without_a_line_are_found() -> None:
    """The object is not ended, and the sink has more of it than there is."""
    source, store = _lake()
    del store.objects[segment_key(PARTITION, 2)]
    source.ends[A] = 6
    assert _kinds(_verify(source, store)) == {"miscounted": 2}


def test_the_closing_dead_letter_counts() -> None:
    """An object that ends badly has one row more than it has lines."""
    source, store = _lake()
    source.ends[B] = ObjectEnd(2, reason=Reason.TRUNCATED)
    rows = [row(B, 0), row(B, 1), row(B, 2, reason=Reason.TRUNCATED)]
    _put(store, plan(rows, partition=OTHER, lines=[(B, 3)]))
    assert _verify(source, store, strict=True).exit_code == 0


def test_a_superseded_version_is_its_one_row() -> None:
    """Under `first` a refused version has one row, however long it is; it is not even read."""
    source, store = _lake()
    source.ends[B] = 5000
    _put(store, plan([row(B, 0, reason=Reason.SUPERSEDED)], partition=OTHER, lines=[(B, 1)]))
    audit = _verify(source, store, strict=True)
    assert (audit.exit_code, audit.source_lines) == (0, 11)
    assert B not in source.reads


def test_objects_that_left_the_source_are_noted() -> None:
    """Gone and overwritten versions are told apart, and are no fault; what the sink lost of them still is."""
    source, store = _lake()
    del source.ends[A]
    del source.ends[B]
    source.ends[ObjectVersion(B.uri, "newer")] = 0
    audit = _verify(source, store)
    assert (audit.exit_code, audit.gone_objects, audit.overwritten_objects) == (0, 1, 1)
    assert audit.unfinished_objects == 0
    assert any("gone from the source" in line for line in lines(audit))
    del store.objects[segment_key(PARTITION, 2)]
    assert _verify(source, store).unfinished_objects == 1
    source, store = _lake()
    del source.ends[A]
    del store.objects[segment_key(PARTITION, 1)]
    assert _kinds(_verify(source, store)) == {"gap": 1, "lost": 3}


def test_an_object_that_goes_while_it_is_read_is_noted() -> None:
    """Overwritten or deleted between listing and reading: nothing is concluded from what was read."""
    source, store = _lake()
    source.ends[A] = ObjectEnd(4, reason=Reason.OVERWRITTEN)
    source.errors[B.uri] = [Missing("gone")]
    audit = _verify(source, store)
    assert (audit.exit_code, audit.overwritten_objects) == (0, 2)


def test_an_object_closed_as_overwritten_may_come_back() -> None:
    """Somebody restored the version whose reading was cut short: noted, no fault; but its rest is not scored, and
    `--strict` says so."""
    source, store = _lake()
    source.ends[B] = 30
    rows = [row(B, 0), row(B, 1), row(B, 2, reason=Reason.OVERWRITTEN)]
    _put(store, plan(rows, partition=OTHER, lines=[(B, 3)]))
    audit = _verify(source, store)
    assert (audit.exit_code, audit.overwritten_objects, audit.written_over_objects) == (0, 1, 1)
    assert any("written over" in line for line in lines(audit))
    strict = _verify(source, store, strict=True)
    assert strict.exit_code == 1
    assert lines(strict)[-1] == "FAILED   1 object written over (--strict)"


def test_a_file_whose_end_is_open_is_not_complete() -> None:
    """All its lines are there, and more may come: `--strict` does not call that done."""
    store = MemoryStore()
    _put(store, plan([row(LOCAL, 0), row(LOCAL, 1)], lines=[(LOCAL, 2)]))
    source = MemorySource({LOCAL: ObjectEnd(2, settled=False)})
    assert _verify(source, store).exit_code == 0
    strict = _verify(source, store, strict=True)
    assert (strict.exit_code, strict.pending, strict.unsettled_objects) == (1, 0, 1)


def test_a_growing_file_takes_its_largest_end() -> None:
    """A local file that grew after it settled: what is new is pending, then ends at the later trailer."""
    store = MemoryStore()
    _put(store, plan([row(LOCAL, 0), row(LOCAL, 1)], lines=[(LOCAL, 2)]))
    source = MemorySource({LOCAL: ObjectEnd(5)})
    audit = _verify(source, store)
    assert (audit.exit_code, audit.pending) == (0, 3)
    _put(store, plan([row(LOCAL, n) for n in (3, 4)], seq=1))
    assert _verify(source, store).pending == 1
    _put(store, plan([row(LOCAL, 2)], seq=2, lines=[(LOCAL, 5)]))
    assert _verify(source, store, strict=True).exit_code == 0
    source.ends[LOCAL] = ObjectEnd(6, settled=False)
    assert _verify(source, store).pending == 1
    source.ends[LOCAL] = ObjectEnd(1)
    audit = _verify(source, store)
    assert (audit.exit_code, audit.overwritten_objects) == (0, 1)


def test_an_audit_beside_a_running_daemon_loses_nothing() -> None:
    """What is published between the two listings counts, though its end was listed before its rows."""
    early = plan([row(B, 0)], partition=OTHER, seq=1, lines=[(B, 3)])
    rest = plan([row(B, 1), row(B, 2)], partition=OTHER)
    late = plan([row(A, 0)], lines=[(A, 2)])

    class Busy(MemoryStore):
        listings = 0

        async def list(self, prefix: str = "", after: str | None = None):  # type: ignore[no-untyped-def]
            self.listings += 1
            if self.listings == 2:
                _put(self, rest, late)
            async for page in super().list(prefix, after):
                yield page

    store = Busy()
    _put(store, early)
    audit = _verify(MemorySource({A: 2, B: 3}), store)
    assert (_kinds(audit), audit.segments, audit.pending) == ({}, 3, 1)


def test_what_cannot_be_read_leaves_the_audit_open() -> None:
    """Objects that stay unreadable: exit 2; passing trouble is tried again."""
    source, store = _lake()
    source.errors[A.uri] = [LOST]
    assert _verify(source, store).exit_code == 0
    source.errors[A.uri] = [LOST] * 3
    source.errors[B.uri] = [Permanent(403, "forbidden")]
    audit = _verify(source, store)
    assert (audit.exit_code, len(audit.unread)) == (2, 2)
    assert lines(audit)[-1].startswith("UNKNOWN  2 objects could not be read")
    _put(store, plan([row(A, 0)], seq=3))
    source.errors[A.uri] = [LOST] * 3
    assert _verify(source, store).exit_code == 1


def test_a_sink_that_does_not_answer_ends_the_audit() -> None:
    """Without all of the sink nothing can be said; a short disturbance is waited for."""
    source, store = _lake()
    assert _verify(source, FaultyStore(store, reads=[failing(LOST)] * 2)).exit_code == 0
    with pytest.raises(Transient):
        _verify(source, FaultyStore(store, reads=[failing(LOST)] * 3))


def test_findings_are_bounded_and_rendered() -> None:
    """A ruined sink gives a page, not a flood; the counts are whole, and the value goes through JSON."""
    store = MemoryStore()
    rows = [msgspec.structs.replace(row(A, n), record_id="0" * 32) for n in range(FAULTS_KEPT * 3)]
    _put(store, plan(rows))
    audit = _verify(MemorySource({A: len(rows)}), store)
    assert audit.found == {FaultKind.CHANGED: FAULTS_KEPT * 3}
    assert len(audit.faults) == FAULTS_KEPT
    text = lines(audit)
    assert f"only the first {FAULTS_KEPT} findings" in text[-2]
    assert text[-1] == "FAILED   changed 300"
    assert msgspec.json.decode(msgspec.json.encode(audit), type=Audit) == audit


# Checkpoints and expired segments.


def _checkpoint(store: MemoryStore, seq: int, *, partition: str = PARTITION) -> None:
    async def write() -> None:
        with ThreadPoolExecutor(1) as executor:
            sink = SegmentSink(store, settings=SETTINGS, patience=Patience(SETTINGS), executor=executor)
            await sink.write_checkpoint(partition, seq)

    asyncio.run(write())


def _expire(store: MemoryStore, *seqs: int) -> None:
    for seq in seqs:
        del store.objects[segment_key(PARTITION, seq)]


def test_what_expired_under_a_checkpoint_counts_by_its_word() -> None:
    """Removed segments are no gap and no loss; the report says how many rows it cannot read any more."""
    source, store = _lake()
    _checkpoint(store, 1)
    whole = _verify(source, store, strict=True)
    assert (whole.found, whole.expired_segments, whole.rows) == ({}, 0, 13)
    _expire(store, 0)
    part = _verify(source, store, strict=True)
    assert (part.found, part.expired_segments, part.expired_rows, part.rows) == ({}, 1, 4, 9)
    _expire(store, 1)
    most = _verify(source, store, strict=True, chains={PARTITION: 3, OTHER: 1})
    assert (most.found, most.expired_segments, most.expired_rows, most.rows) == ({}, 2, 7, 6)
    assert most.exit_code == 0
    assert any("2 segments expired under checkpoints: how 7 rows ended" in line for line in lines(most))


def test_a_chain_that_expired_whole_is_still_known() -> None:
    """Its checkpoint alone stands; that its last segment is gone is no fault, even to the ledger's mind."""
    source, store = _lake()
    _checkpoint(store, 2)
    _expire(store, 0, 1, 2)
    audit = _verify(source, store, strict=True, chains={PARTITION: 3, OTHER: 1})
    assert (audit.found, audit.partitions, audit.expired_rows) == ({}, 2, 10)


def test_a_segment_removed_above_the_checkpoint_is_a_gap() -> None:
    """Only what a checkpoint covers may go."""
    source, store = _lake()
    _checkpoint(store, 0)
    _expire(store, 0, 1)
    assert _kinds(_verify(source, store)) == {"gap": 1, "lost": 3}


def test_a_row_above_the_checkpoint_that_it_holds_is_doubled() -> None:
    """Also if the segment that held it first is gone."""
    source, store = _lake()
    _checkpoint(store, 2)
    _put(store, plan([row(A, 0)], seq=3))
    _expire(store, 0, 1, 2)
    assert _kinds(_verify(source, store)) == {"doubled": 1}


def test_a_checkpoint_that_is_not_of_its_segments_is_changed() -> None:
    """Too few rows, too many, or other segments: as long as they stand, each is held against the other."""
    source, store = _lake()
    _checkpoint(store, 1)
    _put(store, plan([row(A, n) for n in (4, 5)], seq=1), plan([row(A, n) for n in (6, 7, 8, 9)], seq=2))
    found = _verify(source, store)
    assert found.found[FaultKind.CHANGED] == 2
    assert any("not the one that it covers" in fault.message for fault in found.faults)
    assert any("in no segment" in fault.message for fault in found.faults)
    _put(store, plan([row(A, n) for n in (4, 5, 7, 30)], seq=1))
    assert any("it lacks 1 rows" in fault.message for fault in _verify(source, store).faults)


def test_a_damaged_checkpoint_is_corrupt() -> None:
    """What it covered and is gone counts as absent then."""
    source, store = _lake()
    _checkpoint(store, 1)
    _expire(store, 0)
    store.put(checkpoint_key(PARTITION, 1), b"damaged")
    assert _kinds(_verify(source, store)) == {"corrupt": 1, "lost": 4}


def test_an_object_whose_closing_row_expired_is_not_compared() -> None:
    """Why it had so many rows was said there: it may have been refused. That is counted, and no fault."""
    source, store = _lake()
    _put(store, plan([row(A, 10, reason=Reason.OVERWRITTEN)], seq=3, lines=[(A, 11)]))
    source.ends[A] = 30
    _checkpoint(store, 3)
    _expire(store, 0, 1, 2, 3)
    audit = _verify(source, store)
    assert (audit.found, audit.unchecked_objects) == ({}, 1)
