"""The loop's own heartbeat: feeds systemd's watchdog, measures how late it comes, keeps the status line current."""

import asyncio
from collections.abc import Callable

from mira_stream.daemon.notify import Notifier
from mira_stream.ports import Clock
from mira_stream.telemetry import registry as metrics
from mira_stream.telemetry.meters import Meters

_BEAT_SECONDS = 1.0
_STATUS_SECONDS = 10.0


async def beat(
    notifier: Notifier,
    meters: Meters,
    status: Callable[[], str],
    *,
    clock: Clock,
    each: Callable[[], None] = lambda: None,
) -> None:
    """For ever: a stalled loop misses its beats, and systemd restarts the daemon. `each` is called at every beat."""
    watchdog = notifier.watchdog_seconds
    period = min(_BEAT_SECONDS, watchdog / 3) if watchdog else _BEAT_SECONDS
    next_status = 0.0
    while True:
        due = clock() + period
        await asyncio.sleep(period)
        now = clock()
        meters.set(metrics.LOOP_LAG_SECONDS, max(0.0, now - due))
        notifier.alive()
        each()
        if now >= next_status:
            notifier.status(status())
            next_status = now + _STATUS_SECONDS
