"""All that is known of a record that was not scored: its generations, what they mean, what can be done."""

import msgspec

from mira_stream.audit.dead_letters import DeadLetters, Letter, Query
from mira_stream.audit.replay import Presence, pending_of
from mira_stream.core.reasons import MEANING
from mira_stream.core.replay import REPLAYABLE
from mira_stream.core.visible import shown
from mira_stream.sink.replays import ReplayFolder

_REPLY_SHOWN = 2_000


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """A record, its rows by generation, and what its last one means.

    Args:
        is_requested: a replay is asked for and not answered.
        trouble: why its object cannot be read, `gone` or `overwritten`; None if it can.
    """

    record_id: str
    generations: tuple[Letter, ...]
    meaning: str
    advice: str
    is_replayable: bool
    is_requested: bool
    trouble: str | None

    @property
    def last(self) -> Letter:
        return self.generations[-1]


async def explained(
    ids: frozenset[str],
    query: Query,
    letters: DeadLetters,
    *,
    presence: Presence,
    replays: ReplayFolder,
) -> list[Explained]:
    """Those records of which a row is published, by id. Reads every row that `query` leaves in question."""
    rows: dict[str, list[Letter]] = {}
    for letter in await letters.history(ids, query):
        rows.setdefault(letter.record_id, []).append(letter)
    pending = await pending_of(replays)
    found = []
    for record_id, generations in rows.items():
        last = generations[-1]
        trouble = await presence.trouble(last.version)
        meaning, advice = MEANING[last.reason] if last.reason else ("it is scored", "nothing")
        found.append(
            Explained(
                record_id=record_id,
                generations=tuple(generations),
                meaning=meaning,
                advice=advice,
                is_replayable=last.reason in REPLAYABLE and trouble is None,
                is_requested=pending.has_later(last.version, last.ordinal, last.generation),
                trouble=trouble,
            )
        )
    return found


def lines(one: Explained) -> list[str]:
    """It for a person."""
    last = one.last
    there = {None: "still there", "gone": "gone", "overwritten": "overwritten since"}[one.trouble]
    told = [
        f"record    {one.record_id}",
        f"object    {shown(last.object)}, line {last.ordinal}, {there}",
        f"source    {shown(last.source)}, group {last.group or 'none'}, shape {last.shape or 'not known'}",
        *(_row(row) for row in one.generations),
        f"means     {one.meaning}",
        f"do        {one.advice}",
        f"replay    {_replay(one)}",
    ]
    if last.missing:
        told.append(f"missing   {', '.join(last.missing)}")
    if last.reply:
        told += ["reply", *(f"  {shown(line)}" for line in last.reply[:_REPLY_SHOWN].splitlines())]
    return [*told, ""]


def _row(row: Letter) -> str:
    ended = f"{row.outcome.value}/{row.reason.value}" if row.reason else f"{row.outcome.value}, {row.overall}"
    asked = f", {row.attempts} requests, the last to {row.replica}" if row.attempts else ", nobody was asked"
    return f"  gen {row.generation:<3} {ended} at {row.scored_at}{asked}; {row.segment}"


def _replay(one: Explained) -> str:
    if one.is_requested:
        return "asked for, and not answered yet"
    if one.is_replayable:
        return f"mira-stream dead-letters replay --config … --id {one.record_id}"
    return "not needed" if one.last.reason is None else "not possible"
