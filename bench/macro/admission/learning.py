"""From a cold start to full work; the batched-token budget at every dispatch; frozen metrics, restarts, a second daemon."""

from collections.abc import Callable

from msgspec.structs import replace

from bench.macro.admission import habits
from bench.macro.admission.goodput import KV, SEEDS, spread
from bench.macro.admission.model import COSTS, Setting, engine, fleet, learned_ratio, ours, records, work_done
from mira_stream.control.admission import PoolControl
from mira_stream.sim.fleet import Fleet, ModelReplica, Policy

_WINDOW_SECONDS = 5
_COLD_SECONDS = 200
_BUDGET = 131_072


def learning() -> dict[str, object]:
    """Seconds to 0.95 of the steady work rate, seconds of a full replica lost against the oracle, learned C."""
    figures: dict[str, object] = {}
    for cost in COSTS:
        for kv in KV:
            seconds, lost, learned = [], [], []
            for seed in SEEDS:
                setting = Setting(cost=cost, kv=kv, seed=seed)
                mine, policy, model = _cold(setting, ours(["r00"], setting), seconds=_COLD_SECONDS + 400)
                oracle, _, _ = _cold(
                    setting,
                    habits.Oracle(["r00"], setting.kv_tokens, setting.prefill_rate),
                    seconds=_COLD_SECONDS,
                )
                steady = (mine[-1] - mine[_COLD_SECONDS]) / (len(mine) - 1 - _COLD_SECONDS)
                seconds.append(_reached(mine, 0.95 * steady))
                lost.append(max((oracle[at] - mine[at]) / steady for at in range(_COLD_SECONDS)))
                assert isinstance(policy, PoolControl)
                learned.append(learned_ratio(policy, model, setting))
            figures[f"{cost} {kv}×"] = {
                "s to 0.95 of the work rate": spread(seconds),
                "s lost against the oracle": spread(lost),
                "learned C ÷ true": spread(learned),
            }
    return figures


def _cold(setting: Setting, policy: Policy, *, seconds: int) -> tuple[list[float], Policy, Fleet]:
    """Work done after each second from a cold start."""
    model = fleet(setting)
    model.join(policy, records(setting))
    done = [0.0]
    for second in range(1, seconds + 1):
        model.run(float(second))
        done.append(work_done(model, setting))
    return done, policy, model


def _reached(done: list[float], rate: float) -> float:
    """The first second from which on the mean rate of the next few is at least `rate`."""
    for second in range(len(done) - _WINDOW_SECONDS):
        if (done[second + _WINDOW_SECONDS] - done[second]) / _WINDOW_SECONDS >= rate:
            return float(second)
    return float(len(done))


def budget() -> dict[str, object]:
    """The largest sum at any dispatch, counted; and the largest number of tokens that truly waited in an engine."""
    figures: dict[str, object] = {}
    for count_error in (0.0, 0.03, 0.15):
        counted, true = 0, 0
        for cost in COSTS:
            for kv in KV:
                for seed in SEEDS:
                    setting = Setting(cost=cost, kv=kv, seed=seed, count_error=count_error)
                    most, peak = _watched(setting)
                    counted, true = max(counted, most), max(true, peak)
        figures[f"count error {count_error:.0%}"] = {
            "most sent and not shown to be prefilled": counted,
            "most truly not prefilled": true,
            "held": f"counted {counted <= _BUDGET}, true {true <= _BUDGET}",
        }
    return figures


def _watched(setting: Setting) -> tuple[int, int]:
    model = fleet(setting)
    policy = ours(list(model.replicas), setting)
    most = 0

    def sent(replica: ModelReplica) -> None:
        nonlocal most
        shown = next(one for one in policy.snapshot(model.now) if one.name == replica.name)
        most = max(most, shown.unprefilled_tokens)

    model.on_sent = sent
    model.join(policy, records(setting))
    model.run(600.0)
    return most, max(one.engine.peak_unprefilled_tokens for one in model.replicas.values())


def disturbed() -> dict[str, object]:
    """Work rate ÷ that of the same seed undisturbed, or of one daemon alone."""
    figures: dict[str, object] = {}
    for kv in (4, 16):
        frozen, restarted, two, four, shares = [], [], [], [], []
        for seed in SEEDS:
            setting = Setting(kv=kv, seed=seed)
            calm = _rate(setting)
            frozen.append(_rate(setting, _freeze) / calm)
            restarted.append(_rate(setting, _restart, after=30.0) / _rate(setting, after=30.0))
            two.append(_shared(setting, replicas=1)[0])
            ratio, share = _shared(setting, replicas=4)
            four.append(ratio)
            shares.append(share)
        figures[f"{kv}×"] = {
            "metrics frozen 60 s, in that span": spread(frozen),
            "restarted empty, 30 to 90 s after": spread(restarted),
            "two daemons on one replica ÷ one": spread(two),
            "two daemons on four replicas ÷ one": spread(four),
            "share of the first of two on four": spread(shares),
        }
    return figures


def _rate(setting: Setting, disturb: Callable[[Fleet], None] | None = None, *, after: float = 0.0) -> float:
    """Work per second in the minute that begins `after` the disturbance at 400 s."""
    model = fleet(setting)
    model.join(ours(list(model.replicas), setting), records(setting))
    model.run(400.0)
    if disturb is not None:
        disturb(model)
    model.run(400.0 + after)
    before = work_done(model, setting)
    model.run(460.0 + after)
    return (work_done(model, setting) - before) / 60.0


def _freeze(model: Fleet) -> None:
    for replica in model.replicas.values():
        replica.load()
        replica.frozen = True


def _restart(model: Fleet) -> None:
    """All requests are lost and come again; the process is there at once."""
    for replica in model.replicas.values():
        for client, candidate, permit in model.fail(replica.name):
            client.settle(permit, None, model.now)
            client.offer(candidate)
        replica.restart(engine(Setting(kv=replica.engine.kv.capacity * 16 // 65_536)), model.now)
    model.decide_all()


def _shared(setting: Setting, *, replicas: int) -> tuple[float, float]:
    """Rate of two daemons together ÷ that of one, and the share of the first."""
    setting = replace(setting, replicas=replicas)

    def rate(daemons: int) -> tuple[float, float]:
        model = fleet(setting)
        policies = [ours(list(model.replicas), setting) for _ in range(daemons)]
        for number, policy in enumerate(policies):
            model.join(policy, records(replace(setting, seed=setting.seed + 100 * number)))
        model.run(300.0)
        before, answered = work_done(model, setting), len(model.answered)
        model.run(1300.0)
        mine = sum(one.client is policies[0] for one in model.answered[answered:])
        return (work_done(model, setting) - before) / 1000.0, mine / (len(model.answered) - answered)

    together, share = rate(2)
    return together / rate(1)[0], share
