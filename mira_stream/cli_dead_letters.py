"""`mira-stream dead-letters`: list, explain and replay the records that were not scored."""

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec
import typer

from mira_stream.core.errors import Refusal
from mira_stream.core.outcome import Reason

if TYPE_CHECKING:
    from mira_stream.audit.dead_letters import DeadLetters, Letter, Query
    from mira_stream.audit.replay import Asked, Presence, ReplayRequests
    from mira_stream.daemon.config import Config
    from mira_stream.daemon.lake import AuditLake

_FOUND = 1
_POLL_SECONDS = 0.5
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}

app = typer.Typer(help="Records that were not scored: list, explain, replay.", no_args_is_help=True)

_Config = Annotated[Path, typer.Option("--config", "-c", help="The TOML configuration file.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts instead of text for people.")]
_Reasons = Annotated[
    list[Reason] | None, typer.Option("--reason", help="Only with this reason; several may be given.")
]
_Sources = Annotated[list[str] | None, typer.Option("--source", help="Only of this source; several.")]
_Objects = Annotated[
    list[str] | None,
    typer.Option("--object", help="Only of this object: its address or the end of it, * allowed; several."),
]
_Since = Annotated[
    str | None,
    typer.Option("--since", help="Only those that ended since then: 90m, 24h, 7d, or a date and time, UTC."),
]
_Ids = Annotated[list[str] | None, typer.Option("--id", help="Only this record_id; several may be given.")]


class Filters(NamedTuple):
    """What the options of `list` and `replay` say."""

    reasons: list[Reason] | None
    sources: list[str] | None
    objects: list[str] | None
    since: str | None
    ids: list[str] | None

    @property
    def query(self) -> "Query":
        from mira_stream.audit.dead_letters import Query

        return Query(
            reasons=frozenset(self.reasons or ()),
            sources=frozenset(self.sources or ()),
            objects=tuple(self.objects or ()),
            since=since_when(self.since, datetime.now(UTC)) if self.since else "",
            ids=frozenset(self.ids or ()),
        )


def since_when(text: str, now: datetime) -> str:
    """`24h`, or a date and time of ISO 8601 (UTC unless it says otherwise), as in `scored_at`. Raises Refusal."""
    ago = re.fullmatch(r"([0-9]{1,6})([mhd])", text)
    if ago:
        return _rfc3339(now - timedelta(**{_UNITS[ago[2]]: int(ago[1])}))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise Refusal(
            f"--since {text} is no time", "write 90m, 24h or 7d, or 2026-01-31T12:00 in UTC"
        ) from error
    return _rfc3339(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@app.command("list")
def list_letters(
    config: _Config,
    reason: _Reasons = None,
    source: _Sources = None,
    object_: _Objects = None,
    since: _Since = None,
    id_: _Ids = None,
    as_json: _Json = False,
) -> None:
    """Dead letters, and records without a pool, that no later generation has replaced."""
    query = Filters(reason, source, object_, since, id_).query
    tell = _tell_json if as_json else _tell_row

    async def work(lake: "AuditLake") -> bool:
        letters = await _opened(lake)
        found: Counter[str] = Counter()
        if not as_json:
            _say(_HEAD)
        async for letter in letters.letters(query):
            found[str(letter.reason)] += 1
            tell(letter)
        told = ", ".join(f"{name} {count:,}" for name, count in found.most_common())
        _note(f"{found.total():,} letters" + (f": {told}" if told else ""))
        return _tell_damage(letters)

    _run(config, lambda _, lake: work(lake))


@app.command()
def explain(
    ids: Annotated[list[str], typer.Argument(help="record_id of one record or several.")],
    config: _Config,
    source: _Sources = None,
    as_json: _Json = False,
) -> None:
    """All that is known of records: every generation, what the reason means, and whether they can be replayed."""
    query = Filters(None, source, None, None, None).query

    async def work(lake: "AuditLake") -> bool:
        from mira_stream.audit.explain import explained, lines

        letters = await _opened(lake)
        presence = _presence(lake)
        histories = await explained(frozenset(ids), query, letters, presence=presence, replays=lake.replays)
        unknown = sorted(set(ids) - {one.record_id for one in histories})
        for one in histories:
            _say(_json(one) if as_json else "\n".join(lines(one)))
        damaged = _tell_damage(letters)
        if unknown:
            _note(f"no row of {', '.join(unknown)} is published")
        return damaged or bool(unknown)

    _run(config, lambda _, lake: work(lake))


@app.command()
def replay(
    config: _Config,
    reason: _Reasons = None,
    source: _Sources = None,
    object_: _Objects = None,
    since: _Since = None,
    id_: _Ids = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Without any filter: whatever can be replayed.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be asked for.")] = False,
    wait: Annotated[
        float, typer.Option("--wait", min=0, help="Wait so many seconds for the daemon to be done.")
    ] = 0.0,
    as_json: _Json = False,
) -> None:
    """Ask the daemon to score records once more, as their next generation; it may be running, or start later."""
    filters = Filters(reason, source, object_, since, id_)
    if not (any(filters) or everything):
        raise Refusal(
            "replay: nothing says which records", "give a filter such as --reason cut_reply, or --all"
        )

    async def work(settings: "Config", lake: "AuditLake") -> bool:
        letters = await _opened(lake)
        requests = await _requests(settings, lake, dry_run=dry_run)
        async for letter in letters.letters(filters.query):
            await requests.take(letter)
        asked = await requests.close()
        answers = await _answers(lake, asked.requests, seconds=wait) if wait else {}
        _tell_asked(asked, answers, dry_run=dry_run, as_json=as_json)
        is_done = all(answer and not answer["refused"] for answer in answers.values())
        return _tell_damage(letters) or not asked.is_whole or not is_done

    _run(config, work)


@app.command()
def requests(config: _Config, as_json: _Json = False) -> None:
    """Replays that were asked for, the oldest first, and what came of them."""

    async def work(lake: "AuditLake") -> bool:
        for name in await lake.replays.names():
            answer = await lake.replays.answered(name)
            if as_json:
                _say(_json({"request": name, "answer": answer}))
            else:
                _say(f"{name}  {_answer_text(msgspec.to_builtins(answer))}")
        return False

    _run(config, lambda _, lake: work(lake))


# Work.


def _run(config: Path, work: Callable[["Config", "AuditLake"], Coroutine[None, None, bool]]) -> None:
    """Open the lake and do it; exit 1 if it says that something is wrong."""
    from mira_stream.daemon.config import load_config
    from mira_stream.daemon.lake import opened_for_audit

    settings = load_config(config)

    async def opened() -> bool:
        async with opened_for_audit(settings, with_ledger=False) as lake:
            return await work(settings, lake)

    raise typer.Exit(_FOUND if asyncio.run(opened()) else 0)


async def _opened(lake: "AuditLake") -> "DeadLetters":
    from mira_stream.audit.dead_letters import DeadLetters

    letters = DeadLetters(lake.sink)
    await letters.open()
    return letters


def _presence(lake: "AuditLake") -> "Presence":
    from mira_stream.audit.replay import Presence

    return Presence(lake.source, lake.source.source_of, patience=lake.sink.patience)


async def _requests(settings: "Config", lake: "AuditLake", *, dry_run: bool) -> "ReplayRequests":
    from mira_stream.audit.replay import ReplayRequests, pending_of
    from mira_stream.daemon.pools import EVERY_SOURCE, claimed_sources

    claimed = claimed_sources(settings)
    return ReplayRequests(
        None if dry_run else lake.replays,
        presence=_presence(lake),
        pending=await pending_of(lake.replays),
        can_score=lambda name: name in claimed or EVERY_SOURCE in claimed,
        now=lambda: _rfc3339(datetime.now(UTC)),
    )


async def _answers(
    lake: "AuditLake", names: tuple[str, ...], *, seconds: float
) -> dict[str, dict[str, object] | None]:
    """What came of these requests within that time; None for one that is not answered."""
    found: dict[str, dict[str, object] | None] = dict.fromkeys(names)
    try:
        async with asyncio.timeout(seconds):
            while missing := [name for name, answer in found.items() if answer is None]:
                for name in missing:
                    found[name] = msgspec.to_builtins(await lake.replays.answered(name))
                if None in found.values():
                    await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        return found
    return found


# Words.

_HEAD = f"{'RECORD':32}  {'GEN':>3}  {'REASON':15}  {'ENDED':24}  {'SOURCE':16}  {'LINE':>9}  OBJECT"


def _tell_row(letter: "Letter") -> None:
    from mira_stream.core.visible import shown

    _say(
        f"{letter.record_id:32}  {letter.generation:>3}  {letter.reason or '':15}  {letter.scored_at:24}  "
        f"{shown(letter.source):16}  {letter.ordinal:>9}  {shown(letter.object)}"
    )


def _tell_json(value: object) -> None:
    _say(_json(value))


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _tell_damage(letters: "DeadLetters") -> bool:
    for what in letters.damaged:
        _note(f"not read: {what}")
    return bool(letters.damaged)


def _tell_asked(
    asked: "Asked", answers: dict[str, dict[str, object] | None], *, dry_run: bool, as_json: bool
) -> None:
    if as_json:
        _say(_json({"dry_run": dry_run, **msgspec.to_builtins(asked), "answers": answers}))
        return
    from mira_stream.core.visible import shown

    verb = "would be asked for" if dry_run else "asked for"
    _say(f"{asked.records:,} records {verb}" + "".join(f"\n  request {name}" for name in asked.requests))
    for cause, count in asked.refused.items():
        _say(f"{count:,} not: {_CAUSES[cause]}")
    for one in asked.shown:
        _say(f"  {one.record_id}  {one.because}  {one.reason or ''}  {shown(one.object)} line {one.ordinal}")
    for name, answer in answers.items():
        _say(f"{name}  {_answer_text(answer)}")


_CAUSES = {
    "gone": "the object is gone, or not below source.uri: land it again",
    "overwritten": "the object is another version now, which is scored on its own",
    "unreadable": "the object cannot be read as far as that line",
    "unpublished": "there is no generation before it",
    "not_replayable": "there is no line to score again (`dead-letters explain` says more)",
    "no_pool": "still no pool scores that source: add one first",
    "requested": "asked for already, and on its way",
}


def _answer_text(answer: object) -> str:
    if not isinstance(answer, dict):
        return "not answered yet: the daemon looks for it every source.list_seconds while it runs"
    from mira_stream.control.intervals import IntervalSet

    refused: Counter[str] = Counter()
    for because, *_, spans in answer["refused"]:
        refused[because] += IntervalSet.from_spans(spans).count
    parts = [f"{answer['records']:,} published", *(f"{n:,} {name}" for name, n in sorted(refused.items()))]
    return ", ".join(parts) + (f"; {answer['problem']}" if answer["problem"] else "")


def _say(text: str) -> None:
    typer.echo(text)


def _note(text: str) -> None:
    typer.echo(text, err=True)
