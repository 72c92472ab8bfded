"""`mira-stream verify`: opens the lake, audits all of it or some partitions, and says how far it is."""

import sys
import time
from pathlib import Path
from typing import Self

import msgspec

from mira_stream.audit.report import Audit
from mira_stream.audit.resume import Resume
from mira_stream.audit.verify import Progress, Scope
from mira_stream.audit.verify import verify as verify_lake
from mira_stream.core.errors import Refusal
from mira_stream.core.naming import SourceNaming
from mira_stream.core.partition import partition_name
from mira_stream.daemon.config import Config, load_config
from mira_stream.daemon.lake import AuditLake, opened_for_audit

_TELL_SECONDS = 1.0


class VerifyRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line asks for; as its options say."""

    strict: bool = False
    with_ledger: bool = False
    partitions: frozenset[str] = frozenset()
    state: Path | None = None


async def audit_lake(config: Path, request: VerifyRequest) -> Audit:
    """Audit the lake of a configuration. Raises Refusal and store errors: not audited."""
    settings = load_config(config)
    if request.partitions and SourceNaming.parse(settings.source.name_from).field is not None:
        raise Refusal(
            "--partition: where records name their source themselves, an object's rows are in many partitions",
            "audit all of them; with --state an interrupted audit goes on",
        )
    async with opened_for_audit(settings, with_ledger=request.with_ledger) as lake:
        with _Teller() as teller:
            return await verify_lake(
                lake.source,
                lake.sink,
                ledger_chains=lake.chains,
                strict=request.strict,
                scope=_scope(settings, lake, request),
                on_progress=teller.tell,
            )


def _scope(settings: Config, lake: AuditLake, request: VerifyRequest) -> Scope:
    about = (lake.source_uri, lake.sink.uri, *sorted(request.partitions))
    return Scope(
        partitions=request.partitions,
        partition_of=lambda seen: partition_name(seen.source, seen.version.uri, settings.sink.shards),
        resume=None if request.state is None else Resume(request.state, about),
    )


class _Teller:
    """One line on stderr that is written over, where a person looks at it."""

    def __init__(self) -> None:
        self._is_on = sys.stderr.isatty()
        self._told_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_on:
            sys.stderr.write("\r\x1b[K")

    def tell(self, progress: Progress) -> None:
        """Say how far it is, once a second."""
        if not self._is_on or time.monotonic() - self._told_at < _TELL_SECONDS:
            return
        self._told_at = time.monotonic()
        sys.stderr.write(
            f"\r\x1b[K{progress.segments:,} segments, {progress.rows:,} rows; {progress.objects:,} objects, "
            f"{progress.source_lines:,} lines"
        )
        sys.stderr.flush()
