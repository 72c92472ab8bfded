"""What a chaos run found, as figures for `bench/results/`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.report import about_run, table
from tests.chaos.crash import FRUITLESS_MAX, PROGRESS_SECONDS_MAX, Tally
from tests.chaos.replays import GROUP_COMMIT_MAX
from tests.chaos.rivals import RivalTally
from tests.chaos.scene import REPLICAS, REQUESTS_MAX

Figures = dict[str, Any]


def figures(tally: Tally, rivals: RivalTally, *, seconds: float) -> dict[str, Figures]:
    """All that was counted, section by section."""
    kills, rival_kills = tally.kills.total(), rivals.kills.total()
    return {
        "crash": {
            "kills": kills,
            "kills_by_moment_or_step": dict(sorted(tally.kills.items())),
            "replicas_killed": tally.replica_kills,
            "starts": tally.starts,
            "starts_from_nothing": tally.cold_starts,
            "killed_before_they_listened": tally.killed_before_listening,
            "ended_by_sigterm_before_they_listened": tally.terminated_early,
            "ended_by_themselves": tally.ended_by_themselves,
            "objects": tally.objects,
            "lines": tally.lines,
            "rows": tally.rows,
            "segments": tally.segments,
            "rows_by_end": dict(sorted(tally.ends.items())),
            "records_lost": tally.lines - tally.rows,
            "records_doubled": tally.doubled,
            "starts_in_a_row_without_progress": tally.fruitless_longest,
            "starts_in_a_row_without_progress_allowed": FRUITLESS_MAX,
            "left_alone_until_progress": tally.left_alone,
            "seconds_to_progress_longest": round(tally.progress_seconds_max, 2),
            "seconds_to_progress_allowed": PROGRESS_SECONDS_MAX,
        },
        "gpu_work_kept": _kept(tally),
        "rivals": {
            "kills": rival_kills,
            "kills_by_state": dict(sorted(rivals.kills.items())),
            "starts": rivals.starts,
            "zombies_that_came_back": dict(sorted(rivals.zombies.items())),
            "segments_of_rivals_adopted": rivals.alarms,
            "strangers_refused": rivals.strangers_refused,
            "lines": rivals.lines,
            "rows": rivals.rows,
            "segments": rivals.segments,
            "records_lost": rivals.lines - rivals.rows,
            "records_doubled": rivals.doubled,
        },
        "run": {
            "kills": kills + rival_kills,
            "seconds": round(seconds, 1),
            "kills_per_minute": round(60 * (kills + rival_kills) / seconds, 1),
        },
    }


def _kept(tally: Tally) -> Figures:
    again = sorted(one.again for one in tally.lost)
    return {
        "requests_that_ended": tally.requests,
        "requests_in_flight_at_most": REPLICAS * REQUESTS_MAX,
        "group_commit_records_at_most": GROUP_COMMIT_MAX,
        "scored_again_per_kill_mean": round(sum(again) / len(again), 2),
        "scored_again_per_kill_p99": again[int(0.99 * (len(again) - 1))],
        "scored_again_per_kill_most": again[-1],
        "in_flight_at_a_kill_most": max(one.in_flight for one in tally.lost),
        "answered_and_not_received_most": max(one.beyond for one in tally.lost),
        "records_scored_again_share": round(sum(again) / max(1, tally.rows), 4),
    }


def write(folder: Path, command: str, store: str, sections: Mapping[str, Figures]) -> Path:
    """`<date>-<commit>-chaos-<store>.json` and `.md`; the path of the first."""
    about = about_run(command)
    path = folder / f"{about['date']}-{about['commit']}-chaos-{store}.json"
    path.write_text(json.dumps({"about": about, **sections}, indent=2) + "\n", "utf-8")
    path.with_suffix(".md").write_text(table(about, sections) + "\n", "utf-8")
    return path
