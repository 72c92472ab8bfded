"""GPU work kept: what was scored again after each kill, counted in the replicas' own logs."""

import json
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.chaos.oracle import Violation

GROUP_COMMIT_MAX = 256
"""Records in one transaction of the ledger at most."""


class Request(NamedTuple):
    """One entry of a replica's log; times are seconds since the epoch."""

    record: str
    began: float
    ended: float
    answered: bool


class Lost(NamedTuple):
    """What one kill cost: records whose replies were on their way (`in_flight`), and those scored again after it.

    `beyond` are those scored again that were not in flight: answered, and not yet in the ledger.
    """

    in_flight: int
    again: int
    beyond: int


def read_requests(logs: Iterable[Path]) -> list[Request]:
    """The requests that name a record, of all replicas."""
    found = []
    for log in logs:
        for line in log.read_bytes().splitlines() if log.exists() else ():
            entry = json.loads(line)
            if entry["record_hash"]:
                good = entry["outcome"] == "answered" and entry["damage"] is None
                began = entry["arrived"]
                found.append(Request(entry["record_hash"], began, began + entry["seconds"], good))
    return found


def lost_per_life(requests: Sequence[Request], starts: Sequence[float], ends: Sequence[float]) -> list[Lost]:
    """For each life of the daemon what its end cost. Lives are in order of time, and do not overlap.

    A request belongs to the life that had begun last: one that a dead daemon had sent may arrive after its end.
    """
    answered: list[set[str]] = [set() for _ in starts]
    open_: list[set[str]] = [set() for _ in starts]
    lives: dict[str, set[int]] = {}
    for request in requests:
        life = bisect_right(starts, request.began) - 1
        lives.setdefault(request.record, set()).add(life)
        if request.ended >= ends[life]:
            open_[life].add(request.record)
        elif request.answered:
            answered[life].add(request.record)
    later: list[set[str]] = [set() for _ in starts]
    for record, asked_in in lives.items():
        for life in sorted(asked_in)[:-1]:
            later[life].add(record)
    return [
        Lost(
            len(open_[n]), len(later[n] & (open_[n] | answered[n])), len((later[n] & answered[n]) - open_[n])
        )
        for n in range(len(starts))
    ]


def check_kept(lost: Sequence[Lost]) -> None:
    """Raises Violation where more was scored again than what was in flight and one group commit."""
    for number, one in enumerate(lost):
        if one.again > one.in_flight + GROUP_COMMIT_MAX:
            raise Violation(
                f"life {number}: {one.again} records scored again, {one.in_flight} were in flight"
            )
