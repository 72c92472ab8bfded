"""One run of a policy on modelled replicas, and the figures of it."""

import math
import random
from collections.abc import Callable, Iterator
from statistics import mean

import msgspec

from mira_stream.control.admission import PoolControl
from mira_stream.control.settings import AdmissionSettings
from mira_stream.sim.engine import Engine, EngineLimits, StepCost
from mira_stream.sim.fleet import Fleet, ModelReplica, Policy, Timing, Work

COSTS = {
    "base": (0.015, 40e-6, 15e-9),
    "decode-bound": (0.030, 10e-6, 15e-9),
    "prefill-bound": (0.008, 80e-6, 15e-9),
}
"""Fixed seconds of a step, seconds per new token, seconds per token in KV."""
FULL_LENGTH = 65_536
LONGEST_PROMPT = 62_000
_BLOCK = 16


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of replica and load. `kv` is the KV capacity in requests of full length."""

    cost: str = "base"
    kv: int = 4
    replicas: int = 1
    seed: int = 11
    count_error: float = 0.03
    network_seconds: float = 0.025
    tail: float = 0.62
    warm_seconds: float = 300.0
    seconds: float = 2000.0

    @property
    def kv_tokens(self) -> int:
        """Capacity of one replica."""
        return self.kv * FULL_LENGTH

    @property
    def prefill_rate(self) -> float:
        """Tokens per second of prefill alone."""
        return 1.0 / COSTS[self.cost][1]

    def work(self, computed: int, generated: int) -> float:
        """Seconds a replica with a full cache needs for so many prompt and output tokens of one request."""
        fixed, token, resident = COSTS[self.cost]
        in_kv = generated * computed + generated * generated / 2
        return token * (computed + generated) + (resident + fixed / self.kv_tokens) * in_kv


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What a run gave. Latencies are modelled seconds; goodput is work done per second and replica, `in_flight` the mean per replica."""

    goodput: float
    replies: int
    in_flight: float
    p50: float
    p99: float
    waiting: float
    preemptions_per_100: float
    peak_unprefilled: int


def records(setting: Setting) -> Iterator[Work]:
    """Endless records: bytes log-normal, 2.9 to 3.9 bytes a token, about 700 tokens of output."""
    chance = random.Random(setting.seed)
    block = setting.seed << 40
    while True:
        size = chance.lognormvariate(math.log(89_000) - (setting.tail**2 - 0.62**2) / 2, setting.tail)
        prompt = int(min(LONGEST_PROMPT, max(600.0, size / chance.uniform(2.9, 3.9))))
        counted = max(1, round(prompt * chance.gauss(1.0, setting.count_error)))
        blocks = prompt // _BLOCK
        # No two prompts share anything, but one that is preempted finds what is left of its own blocks.
        keys = tuple(range(block, block + blocks))
        block += blocks
        yield Work(prompt, counted, max(50, round(chance.gauss(700, 175))), keys)


def engine(setting: Setting, *, slower: float = 1.0) -> Engine:
    fixed, token, resident = (one * slower for one in COSTS[setting.cost])
    limits = EngineLimits(
        batched_tokens_max=131_072,
        running_max=1024,
        kv_blocks=setting.kv_tokens // _BLOCK,
        block_tokens=_BLOCK,
    )
    cost = StepCost(
        fixed_seconds=fixed,
        prefill_token_seconds=token,
        decode_token_seconds=token,
        resident_token_seconds=resident,
    )
    return Engine(limits, cost)


def fleet(setting: Setting, *, scrape_seconds: float = 1.0) -> Fleet:
    replicas = [ModelReplica(f"r{number:02}", engine(setting)) for number in range(setting.replicas)]
    timing = Timing(network_seconds=setting.network_seconds, scrape_seconds=scrape_seconds)
    return Fleet(replicas, timing)


def ours(names: list[str], setting: Setting) -> PoolControl:
    """The product's own, with nothing configured but the number of requests, which is the server's."""
    return PoolControl(names, AdmissionSettings(requests_max=1024))


def work_done(model: Fleet, setting: Setting) -> float:
    """All work so far, that of requests under way included."""
    done = sum(setting.work(one.work.prompt_tokens, one.work.output_tokens) for one in model.answered)
    under_way = sum(
        setting.work(min(one.computed, one.prompt_tokens), one.generated) for one in model.in_flight()
    )
    return done + under_way


def run(setting: Setting, policy: Callable[[list[str], Setting], Policy]) -> tuple[Figures, Policy, Fleet]:
    """Warm up, then measure."""
    model = fleet(setting)
    chosen = policy(list(model.replicas), setting)
    model.join(chosen, records(setting))
    model.run(setting.warm_seconds)
    replicas = list(model.replicas.values())
    work, replies = work_done(model, setting), len(model.answered)
    waited = sum(one.waiting_seconds for one in replicas)
    preempted = sum(one.engine.preemptions for one in replicas)
    model.run(setting.warm_seconds + setting.seconds)
    latencies = sorted(one.answered_at - one.sent_at for one in model.answered[replies:])
    seconds = setting.seconds * setting.replicas
    figures = Figures(
        goodput=(work_done(model, setting) - work) / seconds,
        replies=len(latencies),
        in_flight=sum(latencies) / seconds,
        p50=latencies[len(latencies) // 2],
        p99=latencies[int(len(latencies) * 0.99)],
        waiting=(sum(one.waiting_seconds for one in replicas) - waited) / seconds,
        preemptions_per_100=100
        * (sum(one.engine.preemptions for one in replicas) - preempted)
        / len(latencies),
        peak_unprefilled=max(one.engine.peak_unprefilled_tokens for one in replicas),
    )
    return figures, chosen, model


def learned_ratio(policy: PoolControl, model: Fleet, setting: Setting) -> float:
    """Learned capacity ÷ true capacity, mean over the replicas."""
    return mean(one.capacity_tokens for one in policy.snapshot(model.now)) / setting.kv_tokens
