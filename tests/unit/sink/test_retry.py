"""Patience: growing waits with a bound, for passing trouble only."""

import asyncio
from collections.abc import Callable

import pytest

from mira_stream.core.errors import Permanent, Saturated, Transient, TransientKind
from mira_stream.sink.retry import Patience
from mira_stream.sink.settings import SinkSettings

SETTINGS = SinkSettings(
    uri="s3://b", retry_initial_seconds=1, retry_max_seconds=10, request_timeout_seconds=0.01
)
LOST = Transient(TransientKind.RESET, "connection reset")


def _waits(errors: list[Exception], *, jitter: float = 1.0, tries_max: int | None = None) -> list[float]:
    waits: list[float] = []
    told: list[str] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async def call() -> str:
        if errors:
            raise errors.pop(0)
        return "known"

    patience = Patience(
        SETTINGS, sleep=sleep, jitter=lambda: jitter, on_retry=told.append, tries_max=tries_max
    )
    assert asyncio.run(patience.until_known(call)) == "known"
    assert len(told) == len(waits)
    return waits


def test_waits_double_up_to_their_bound() -> None:
    """There is no bound on the tries, only on each wait."""
    assert _waits([LOST] * 7) == [1, 2, 4, 8, 10, 10, 10]
    assert len(_waits([LOST] * 3000)) == 3000


def test_jitter_shortens_a_wait_to_no_less_than_half() -> None:
    """Daemons spread, and none hammers."""
    assert _waits([LOST] * 3, jitter=0.0) == [0.5, 1, 2]


def test_the_wait_that_a_store_asks_for_is_honoured_within_the_bound() -> None:
    """SlowDown with Retry-After waits that long, never longer than the bound."""
    assert _waits([Saturated("slow down", 3.0), Saturated("slow down", 600.0), Saturated("?")]) == [3, 10, 4]


def test_other_errors_and_the_last_try_are_raised() -> None:
    """What no retry can mend ends the patience at once; so does the last try where there is one."""
    with pytest.raises(Permanent):
        _waits([Permanent(403, "forbidden")])
    with pytest.raises(Transient):
        _waits([LOST] * 3, tries_max=3)
    assert _waits([LOST] * 2, tries_max=3) == [1, 2]


def test_an_answer_that_does_not_come_is_transient() -> None:
    """A stalled call ends after the configured time and counts as unanswered."""

    async def stall() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Transient, match=r"no answer of the store in 0\.01 s") as error:
        asyncio.run(Patience(SETTINGS).answered(stall))
    assert error.value.kind is TransientKind.TIMEOUT


def test_cancelling_ends_the_patience() -> None:
    """A daemon that stops does not wait for a store that is down."""

    async def stop(call: Callable[[], object]) -> None:
        asleep = asyncio.Event()

        async def sleep(_: float) -> None:
            asleep.set()
            await asyncio.Event().wait()

        async with asyncio.TaskGroup() as group:
            task = group.create_task(Patience(SETTINGS, sleep=sleep).until_known(call))
            await asleep.wait()
            task.cancel()
        assert task.cancelled()

    async def fail() -> None:
        raise LOST

    asyncio.run(stop(fail))
