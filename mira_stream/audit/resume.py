"""An audit that was interrupted goes on: what was read of whole partitions, and of source objects, in one local file."""

import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import zstandard

from mira_stream.audit.report import Fault, FaultKind
from mira_stream.audit.spans import Spans
from mira_stream.core.errors import Refusal
from mira_stream.core.outcome import Outcome, Reason
from mira_stream.core.segment import Span
from mira_stream.core.sight import ObjectEnd, SeenObject

if TYPE_CHECKING:
    from mira_stream.audit.chains import Chains

STATE_VERSION = 1
SAVE_SECONDS = 30.0
_STATE_BYTES_MAX = 16 << 30
_Spans = tuple[Span, ...]


class ObjectState(msgspec.Struct, frozen=True, array_like=True):
    """What the partitions that were read hold of one object version; as in `chains.Published`."""

    uri: str
    etag: str
    first: _Spans
    expired: _Spans | None
    replays: dict[int, _Spans]
    lines: int | None
    superseded: bool
    overwritten: bool


class ChainsState(msgspec.Struct, frozen=True, kw_only=True):
    """All that was learned of the partitions in `done`, which are read up to that seq."""

    done: dict[str, int] = {}
    objects: tuple[ObjectState, ...] = ()
    outcomes: dict[Outcome, int] = {}
    reasons: dict[Reason, int] = {}
    segments: int = 0
    rows: int = 0
    replayed_rows: int = 0
    expired_segments: int = 0
    expired_rows: int = 0
    found: dict[FaultKind, int] = {}
    faults: tuple[Fault, ...] = ()


class State(msgspec.Struct, frozen=True, kw_only=True):
    """The file. `about` says which audit it is of; `ends` where source objects ended, by uri, etag and change mark."""

    version: int = STATE_VERSION
    about: tuple[str, ...]
    chains: ChainsState
    ends: tuple[tuple[str, str, str, ObjectEnd], ...]


class Resume:
    """The state of one audit, kept in a file while it is under way; a finished audit leaves none.

    Args:
        path: the file; made when there is something to keep.
        about: what is audited: a state of another audit is refused.
        clock: monotonic seconds; the file is written at most every `SAVE_SECONDS`, and by `save`.

    Raises Refusal if the file is of another audit, or cannot be read.
    """

    def __init__(
        self, path: Path, about: tuple[str, ...], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.chains = ChainsState()
        self._path = path
        self._about = about
        self._clock = clock
        self._ends: dict[tuple[str, str, str], ObjectEnd] = {}
        self._load()
        self._saved_at = clock()

    def forget(self) -> None:
        """Nothing of it can be gone on with."""
        self.chains = ChainsState()
        self._ends.clear()

    def end_of(self, seen: SeenObject) -> ObjectEnd | None:
        """Where that object ended, if it was read as it is now."""
        return self._ends.get(_sight(seen))

    def ended(self, seen: SeenObject, end: ObjectEnd) -> None:
        """An object was read."""
        self._ends[_sight(seen)] = end
        self._save_if_due()

    def took(self, state: Callable[[], ChainsState], *, is_last: bool) -> None:
        """A partition was read; with the last one all that comes after it is learned anew at the next start."""
        if is_last or self._is_due():
            self.chains = state()
            self._save_if_due()

    def save(self) -> None:
        """Write the file, whole or not at all. Raises Refusal."""
        state = State(
            about=self._about,
            chains=self.chains,
            ends=tuple((*sight, end) for sight, end in self._ends.items()),
        )
        data = zstandard.ZstdCompressor(level=3, write_checksum=True).compress(msgspec.json.encode(state))
        part = self._path.with_name(f"{self._path.name}.tmp")
        try:
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self._path)
        except OSError as error:
            raise self._refusal(f"cannot be written: {error.strerror or error}") from error
        self._saved_at = self._clock()

    def finish(self) -> None:
        """The audit has come to its end: the next one begins anew."""
        self._path.unlink(missing_ok=True)

    def _is_due(self) -> bool:
        return self._clock() - self._saved_at >= SAVE_SECONDS

    def _save_if_due(self) -> None:
        if self._is_due():
            self.save()

    def _load(self) -> None:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._refusal(f"cannot be read: {error.strerror or error}") from error
        try:
            plain = zstandard.ZstdDecompressor().decompress(data, max_output_size=_STATE_BYTES_MAX)
            state = msgspec.json.decode(plain, type=State)
        except (zstandard.ZstdError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._refusal(f"cannot be understood: {error}") from error
        if state.version != STATE_VERSION or state.about != self._about:
            raise self._refusal(f"is of another audit, of {' '.join(state.about)}")
        self.chains = state.chains
        self._ends = {(uri, etag, change): end for uri, etag, change, end in state.ends}

    def _refusal(self, what: str) -> Refusal:
        return Refusal(
            f"--state {self._path} {what}", "remove it to audit from the start, or name another file"
        )


def _sight(seen: SeenObject) -> tuple[str, str, str]:
    return seen.version.uri, seen.version.etag, seen.change


def state_of(chains: "Chains") -> ChainsState:
    """What those chains have learned, between two partitions."""
    return ChainsState(
        done=dict(chains.done),
        objects=tuple(
            ObjectState(
                version.uri,
                version.etag,
                tuple(it.first),
                None if it.expired is None else tuple(it.expired),
                {generation: tuple(spans) for generation, spans in it.replays.items()},
                it.lines,
                it.superseded,
                it.overwritten,
            )
            for version, it in chains.items()
        ),
        outcomes=dict(chains.outcomes),
        reasons=dict(chains.reasons),
        segments=chains.segments,
        rows=chains.rows,
        replayed_rows=chains.replayed_rows,
        expired_segments=chains.expired_segments,
        expired_rows=chains.expired_rows,
        found=dict(chains.findings.found),
        faults=tuple(chains.findings.kept),
    )


def restore(chains: "Chains", state: ChainsState) -> None:
    """Put that into chains that have read nothing yet."""
    chains.done = dict(state.done)
    for one in state.objects:
        published = chains.published(one.uri, one.etag)
        _fill(published.first, one.first)
        if one.expired is not None:
            published.expired = Spans()
            _fill(published.expired, one.expired)
        for generation, spans in one.replays.items():
            _fill(published.held(generation), spans)
        published.lines = one.lines
        published.superseded = one.superseded
        published.overwritten = one.overwritten
    chains.outcomes = Counter(state.outcomes)
    chains.reasons = Counter(state.reasons)
    chains.segments, chains.rows, chains.replayed_rows = state.segments, state.rows, state.replayed_rows
    chains.expired_segments, chains.expired_rows = state.expired_segments, state.expired_rows
    chains.findings.found = Counter(state.found)
    chains.findings.kept = list(state.faults)


def _fill(held: Spans, spans: _Spans) -> None:
    for start, end in spans:
        held.add(start, end)
