"""The channel between two stages: bounded, ordered, closable, safe to cancel."""

import asyncio

import pytest

from mira_stream.pipeline.channel import Channel, Closed


async def _settled(task: asyncio.Task[object]) -> bool:
    """Whether the task is done once everything that can run has run."""
    for _ in range(10):
        await asyncio.sleep(0)
    return task.done()


def test_items_come_out_in_the_order_they_went_in() -> None:
    """First in, first out."""

    async def story() -> list[int]:
        channel: Channel[int] = Channel(items_max=3, bytes_max=100)
        for item in (1, 2, 3):
            await channel.put(item, 1)
        return await channel.take(10)

    assert asyncio.run(story()) == [1, 2, 3]


@pytest.mark.parametrize(("items_max", "bytes_max"), [(1, 1000), (1000, 10)])
def test_put_waits_while_the_channel_is_full(items_max: int, bytes_max: int) -> None:
    """Nothing is read before a place downstream is free: by items and by bytes."""

    async def story() -> None:
        channel: Channel[str] = Channel(items_max=items_max, bytes_max=bytes_max)
        await channel.put("a", 8)
        async with asyncio.TaskGroup() as group:
            putting = group.create_task(channel.put("b", 8))
            assert not await _settled(putting)
            assert await channel.get() == "a"
            await putting
            assert await channel.get() == "b"

    asyncio.run(story())


def test_an_item_over_the_byte_bound_passes_when_the_channel_is_empty() -> None:
    """A record larger than the bound must not block the pipeline for ever."""

    async def story() -> None:
        channel: Channel[str] = Channel(items_max=5, bytes_max=10)
        await channel.put("huge", 1000)
        assert channel.bytes == 1000
        assert await channel.get() == "huge"
        assert channel.bytes == 0

    asyncio.run(story())


def test_a_closed_channel_gives_what_it_holds_then_says_closed() -> None:
    """Closing loses nothing that is inside."""

    async def story() -> None:
        channel: Channel[int] = Channel(items_max=5, bytes_max=10)
        await channel.put(1, 1)
        await channel.close()
        assert await channel.get() == 1
        with pytest.raises(Closed):
            await channel.get()
        with pytest.raises(Closed):
            await channel.put(2, 1)

    asyncio.run(story())


def test_a_cancelled_put_or_get_loses_no_item() -> None:
    """Cancellation at the await leaves the item with the caller or inside, never nowhere."""

    async def story() -> None:
        channel: Channel[int] = Channel(items_max=1, bytes_max=10)
        getting = asyncio.ensure_future(channel.get())  # noqa: TID251 - the test cancels it itself
        assert not await _settled(getting)
        getting.cancel()
        await channel.put(1, 1)
        putting = asyncio.ensure_future(channel.put(2, 1))  # noqa: TID251
        assert not await _settled(putting)
        putting.cancel()
        assert await _settled(putting)
        assert await channel.take(5) == [1]
        await channel.put(3, 1)
        assert await channel.get() == 3

    asyncio.run(story())
