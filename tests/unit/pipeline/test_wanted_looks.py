"""Looks that are wanted at once: asked for again and again they would be a loop."""

import asyncio

from mira_stream.control.admission import PoolControl
from mira_stream.control.settings import AdmissionSettings
from mira_stream.pipeline.wanted_looks import WantedLooks


class _Wanting(PoolControl):
    def wants_look(self, replica: str) -> bool:
        return True


def test_a_wish_is_for_one_look() -> None:
    """While a pool drains, or waits for the sink, nobody takes a wish back: it must not stand for ever."""

    async def story() -> None:
        wanted = WantedLooks(_Wanting(["a"], AdmissionSettings()), ["a"])
        wanted.update()
        await asyncio.wait_for(wanted.wait("a", 60.0), 1.0)
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(wanted.wait("a", 60.0))
            for _ in range(5):
                await asyncio.sleep(0)
            assert not waiting.done()
            wanted.update()
            await asyncio.wait_for(waiting, 1.0)

    asyncio.run(story())


def test_who_waits_for_a_replica_that_has_left_goes_on() -> None:
    """And whoever comes later does not wait at all."""

    async def story() -> None:
        wanted = WantedLooks(PoolControl(["a"], AdmissionSettings()), ["a"])
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(wanted.wait("a", 60.0))
            await asyncio.sleep(0)
            wanted.drop("a")
            await asyncio.wait_for(waiting, 1.0)
            await asyncio.wait_for(wanted.wait("a", 60.0), 1.0)

    asyncio.run(story())
