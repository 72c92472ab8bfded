"""Schedules worked out by hand, step by step: the engine must keep to them to the last digit.

A step costs 1 s, 0.01 s per prefilled token, 0.1 s per decoded token, 0.001 s per token in KV when it begins. Blocks
hold 16 tokens. In the comments `p` are prefilled, `d` decoded and `r` resident tokens.
"""

from collections.abc import Hashable
from typing import Any

import pytest

from mira_stream.sim.engine import Engine, EngineLimits, StepCost
from mira_stream.sim.sequence import Sequence

COST = StepCost(
    fixed_seconds=1.0, prefill_token_seconds=0.01, decode_token_seconds=0.1, resident_token_seconds=0.001
)
SHARED = ("x", "y")


def engine(*, blocks: int = 1000, budget: int = 1000, seats: int = 8, **rules: Any) -> Engine:
    limits = EngineLimits(batched_tokens_max=budget, running_max=seats, kv_blocks=blocks, **rules)
    return Engine(limits, COST)


def sequence(prompt: int, output: int, *, arrived: float = 0.0, keys: tuple[Hashable, ...] = ()) -> Sequence:
    return Sequence(prompt, output_tokens=output, output_tokens_max=output, arrived=arrived, keys=keys)


def play(machine: Engine, *sequences: Sequence, steps: int | None = None, now: float = 0.0) -> list[float]:
    """Submit, and play so many steps or to the end; how long each step took."""
    for one in sequences:
        machine.submit(one)
    took: list[float] = []
    while (start := machine.next_start(now)) is not None and (steps is None or len(took) < steps):
        step = machine.begin_step(start)
        machine.end_step()
        took.append(step.ended - step.started)
        now = step.ended
    return took


def test_two_prompts_over_the_step_budget() -> None:
    """The second prompt is cut to fill the budget, and goes on beside the first one's decoding."""
    first, second = sequence(70, 3), sequence(60, 2)
    assert play(engine(budget=100), first, second) == pytest.approx(
        [
            1 + 1.0,  # p 70 + 30
            1 + 0.3 + 0.1 + 0.1,  # p 30, d 1, r 100
            1 + 0.2 + 0.131,  # d 2, r 71 + 60
        ]
    )
    assert (first.first_token, first.finished) == pytest.approx((2.0, 4.831))
    assert (second.first_token, second.finished) == pytest.approx((3.5, 4.831))


def test_a_prompt_that_joins_in_the_midst_of_another() -> None:
    """A prompt over the budget takes two steps; one that arrived meanwhile shares the second."""
    first, second = sequence(150, 3), sequence(20, 2, arrived=1.0)
    assert play(engine(budget=100), first, second) == pytest.approx(
        [
            1 + 1.0,  # p 100
            1 + 0.7 + 0.1,  # p 50 + 20, r 100
            1 + 0.2 + 0.17,  # d 2, r 150 + 20
            1 + 0.1 + 0.151,  # d 1, r 151; the second is done
        ]
    )
    assert (first.scheduled, first.first_token, first.finished) == pytest.approx((0.0, 3.8, 6.421))
    assert (second.scheduled, second.first_token, second.finished) == pytest.approx((2.0, 3.8, 5.17))


def test_the_head_of_the_queue_blocks_those_behind_it() -> None:
    """A prompt of 7 blocks waits for 4 held of 10, and a prompt of 1 block waits behind it."""
    first, large, small = sequence(64, 3), sequence(112, 1), sequence(16, 1)
    assert play(engine(blocks=10), first, large, small) == pytest.approx(
        [
            1 + 0.64,  # p 64; 6 blocks free
            1 + 0.1 + 0.064,  # d 1, r 64; opens a fifth block
            1 + 0.1 + 0.065,  # d 1, r 65; done
            1 + 1.28,  # p 112 + 16
        ]
    )
    assert large.scheduled == small.scheduled == pytest.approx(1.64 + 1.164 + 1.165)


def test_the_newest_is_preempted_for_an_older_one() -> None:
    """Without a free block the newer sequence loses its prefill, waits at the head, and is computed again."""
    machine = engine(blocks=4)
    older, newer, last = sequence(16, 3), sequence(40, 3), sequence(8, 1, arrived=1.0)
    assert play(machine, older, newer, last, steps=2) == pytest.approx(
        [
            1 + 0.56,  # p 16 + 40: all 4 blocks
            1 + 0.1 + 0.016,  # d 1, r 16: the 17th token of the older needs a block, the newer gives its 3
        ]
    )
    assert (machine.stats.running, machine.stats.waiting, machine.stats.kv_usage) == (1, 2, 0.5)
    assert (newer.preemptions, newer.computed, newer.generated) == (1, 0, 1)
    assert machine.unprefilled_tokens == 41 + 8
    assert play(machine, now=2.676) == pytest.approx(
        [
            1 + 0.1 + 0.017,  # d 1, r 17; 3 blocks wanted by the head, 2 free, so the last waits too; done
            1 + 0.49,  # p 40 + 1 again, and 8
            1 + 0.1 + 0.041,  # d 1, r 41; done
        ]
    )
    assert (newer.first_token, newer.finished) == pytest.approx((1.56, 6.424))
    assert (machine.preemptions, machine.recomputed_tokens) == (1, 40)


def test_the_newest_preempts_itself() -> None:
    """A sequence that is the newest and lacks a block goes back to the queue; recomputing gives its next token."""
    machine = engine(blocks=4)
    older, newer = sequence(16, 20), sequence(30, 20)
    before = [
        1 + 0.46,  # p 16 + 30: 3 blocks
        1 + 0.2 + 0.046,  # d 2, r 46: the older takes the fourth block
        1 + 0.2 + 0.048,  # d 2, r 48: the newer fills its second block
        1 + 0.1 + 0.018,  # d 1, r 18: the newer needs a third, and is out
    ]
    alone = [1 + 0.1 + 0.001 * resident for resident in range(19, 35)]  # the older's tokens 5 … 20
    again = [1 + 0.33]  # p 30 + 3
    to_the_end = [1 + 0.1 + 0.001 * resident for resident in range(33, 49)]  # the newer's tokens 5 … 20
    assert play(machine, older, newer) == pytest.approx(before + alone + again + to_the_end)
    assert older.finished == pytest.approx(sum(before + alone))
    assert (machine.preemptions, machine.recomputed_tokens, newer.preemptions) == (1, 32, 1)
    assert machine.peak_kv_blocks == 4


def test_without_the_full_prompt_reserved_a_chunk_must_fit() -> None:
    """A prompt of 4 blocks enters with its first chunk, is thrown out by a decode, and enters again."""
    machine = engine(blocks=4, budget=20, reserve_full_isl=False)
    older, large = sequence(16, 4), sequence(60, 1)
    assert play(machine, older, large) == pytest.approx(
        [
            1 + 0.2,  # p 16 + 4: 2 blocks
            1 + 0.19 + 0.1 + 0.02,  # p 19, d 1, r 20: 2 + 2 blocks
            1 + 0.1 + 0.017,  # d 1, r 17: the chunk to 42 tokens wants a third block
            1 + 0.19 + 0.1 + 0.018,  # p 19, d 1, r 18: in again, in 2 blocks; the older is done
            1 + 0.2 + 0.019,  # p 20, r 19
            1 + 0.2 + 0.039,  # p 20, r 39
            1 + 0.01 + 0.059,  # p 1, r 59
        ]
    )
    assert (machine.preemptions, machine.recomputed_tokens) == (1, 23)


def test_with_the_full_prompt_reserved_it_waits() -> None:
    """The same prompt stays out until the other sequence has left."""
    machine = engine(blocks=4, budget=20)
    older, large = sequence(16, 4), sequence(60, 1)
    play(machine, older, large)
    assert large.scheduled == pytest.approx(older.finished)
    assert machine.preemptions == 0


def test_the_watermark_keeps_blocks_free() -> None:
    """Half of 4 blocks stay free while something runs, so a prompt of 2 blocks waits for an empty engine."""
    first, second = sequence(16, 2), sequence(32, 1)
    assert play(engine(blocks=4, watermark=0.5), first, second) == pytest.approx(
        [1 + 0.16, 1 + 0.1 + 0.016, 1 + 0.32]
    )


def test_no_more_sequences_run_than_there_are_seats() -> None:
    """The third of three waits until one of two seats is free."""
    three = [sequence(10, 2) for _ in range(3)]
    assert play(engine(seats=2), *three) == pytest.approx(
        [
            1 + 0.2,  # p 10 + 10
            1 + 0.2 + 0.02,  # d 2, r 20; both done
            1 + 0.1,  # p 10
            1 + 0.1 + 0.01,  # d 1, r 10
        ]
    )


def test_a_prompt_hits_what_an_earlier_one_left() -> None:
    """Two cached blocks are neither computed nor waited for; they cost as tokens in KV."""
    machine = engine()
    first, second = sequence(40, 1, keys=SHARED), sequence(50, 1, arrived=5.0, keys=SHARED)
    assert play(machine, first, second) == pytest.approx(
        [
            1 + 0.4,  # p 40
            1 + 0.18 + 0.032,  # p 18, r 32
        ]
    )
    assert (first.cached_tokens, second.cached_tokens) == (0, 32)
    assert (machine.prefix_queried_tokens, machine.prefix_hit_tokens) == (90, 32)
    assert machine.stats.kv_usage == 0.0  # what is only cached counts as free


def test_blocks_that_two_share_count_once() -> None:
    """Two prompts of the same step share two blocks: 3 and 4 blocks are 5."""
    machine = engine(blocks=10)
    took = play(machine, sequence(40, 2, keys=SHARED), sequence(50, 2, keys=SHARED), steps=1)
    assert took == pytest.approx([1 + 0.58 + 0.032])  # p 40 + 18, r 32
    assert machine.stats.kv_usage == 0.5
    assert machine.resident_tokens == 90


def test_the_last_token_is_always_computed() -> None:
    """Of a prompt that is cached whole, the last block is computed."""
    machine = engine()
    again = sequence(32, 1, arrived=9.0, keys=SHARED)
    assert play(machine, sequence(32, 1, keys=SHARED), again) == pytest.approx(
        [1 + 0.32, 1 + 0.16 + 0.016]  # p 32; p 16, r 16
    )


def test_cached_blocks_are_given_out_oldest_first() -> None:
    """Of 6 blocks, 2 cached ones outlive a prompt that takes the 4 others, and fall to one that takes 5."""
    for prompt, cached in ((64, 32), (79, 16), (95, 0)):
        machine = engine(blocks=6)
        later = sequence(40, 1, arrived=20.0, keys=SHARED)
        play(machine, sequence(32, 1, keys=SHARED), sequence(prompt, 1, arrived=10.0), later)
        assert later.cached_tokens == cached


def test_a_preempted_prompt_hits_its_own_blocks() -> None:
    """What a preempted sequence had cached is still there if nobody took it; that is not computed again."""
    machine = engine(blocks=5)
    older, newer = sequence(32, 2), sequence(40, 2, keys=SHARED)
    assert play(machine, older, newer) == pytest.approx(
        [
            1 + 0.72,  # p 32 + 40: all 5 blocks
            1 + 0.1 + 0.032,  # d 1, r 32: takes the newer's last block; done
            1 + 0.09 + 0.032,  # p 41 − 32, r 32
        ]
    )
    assert (machine.preemptions, machine.recomputed_tokens) == (1, 8)
    assert (machine.prefix_queried_tokens, machine.prefix_hit_tokens) == (72, 0)


def test_a_hybrid_model_misses() -> None:
    """Its prefill is cut at the last full block, in the record's own part, so that the shared part is not hit."""
    machine = engine(aligned=True)
    both = [sequence(60, 1, arrived=arrived, keys=SHARED) for arrived in (0.0, 10.0)]
    once = [
        1 + 0.48,  # p 48, three full blocks
        1 + 0.12 + 0.048,  # p 12, r 48
    ]
    assert play(machine, *both) == pytest.approx(once + once)
    assert machine.prefix_hit_tokens == 0


def test_a_hybrid_model_hits_where_a_prompt_ended() -> None:
    """A prompt that is just the shared part leaves its state at its end, and the next one hits it."""
    machine = engine(aligned=True)
    warm, hits = sequence(32, 1, keys=SHARED), sequence(60, 1, arrived=10.0, keys=SHARED)
    assert play(machine, warm, hits) == pytest.approx(
        [
            1 + 0.32,  # p 32
            1 + 0.16 + 0.032,  # p 16 to the third full block, r 32
            1 + 0.12 + 0.048,  # p 12, r 48
        ]
    )
    assert hits.cached_tokens == 32


def test_a_hybrid_models_state_takes_its_place() -> None:
    """With one block of state each, 3 prompts of one block fill 6 blocks, and a fourth waits."""
    machine = engine(blocks=6, aligned=True, state_blocks=1)
    play(machine, *(sequence(15, 1) for _ in range(4)), steps=1)
    assert (machine.peak_kv_blocks, machine.stats.waiting, machine.stats.kv_usage) == (6, 1, 0.0)
