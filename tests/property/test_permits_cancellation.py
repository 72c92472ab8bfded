"""Cancelled at whatever await: every permit that was reserved is settled, once."""

import asyncio
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from mira_stream.control.admission import PoolControl
from mira_stream.control.decision import Admitted, Decision
from mira_stream.control.permits import Permit
from mira_stream.control.settings import AdmissionSettings
from mira_stream.core.errors import Permanent, Saturated, Transient, TransientKind
from mira_stream.core.usage import Usage
from tests.fakes.lab import laboratory
from tests.fakes.pool import Pool
from tests.fakes.scripted_replica import GOOD, Answer, ScriptedReplica

ANSWERS = st.sampled_from(
    [
        GOOD,
        "I would rather not.",
        Transient(TransientKind.RESET, "connection reset"),
        Transient(TransientKind.REFUSED, "connection refused"),
        Saturated("busy", 0.0),
        Permanent(400, "too long", "input_tokens"),
        Permanent(400, "temperature must be non-negative", "temperature"),
    ]
)


class _Counting(PoolControl):
    """Notes every permit that is reserved and every one that is settled."""

    def __init__(self, replicas: list[str]) -> None:
        super().__init__(replicas, AdmissionSettings(kv_tokens=100_000, hedge=True))
        self.reserved: list[int] = []
        self.ended: list[int] = []

    def decide(self, now: float) -> Decision:
        decision = super().decide(now)
        if isinstance(decision, Admitted):
            self.reserved.append(decision.permit.number)
        return decision

    def settle(self, permit: Permit, usage: Usage | None, now: float) -> None:
        self.ended.append(permit.number)
        super().settle(permit, usage, now)


@settings(deadline=None, max_examples=60)
@given(steps=st.integers(0, 120), records=st.integers(1, 12), script=st.lists(ANSWERS, max_size=12))
def test_permits_are_settled_whenever_the_pool_is_cancelled(
    steps: int, records: int, script: list[Answer]
) -> None:
    """A pool whose task is cancelled after any number of steps of the loop holds nothing afterwards."""

    async def run(folder: Path) -> _Counting:
        async with asyncio.timeout(20), laboratory(folder) as lab:
            replicas = (ScriptedReplica("http://one", script), ScriptedReplica("http://two"))
            control = _Counting([one.name for one in replicas])
            pool = Pool(lab, *replicas, control=control)
            async with asyncio.TaskGroup() as group:
                committing = group.create_task(lab.committer.run())
                sending = group.create_task(pool.dispatcher.run())
                offering = group.create_task(pool.offer(*range(records)))
                for _ in range(steps):
                    await asyncio.sleep(0)
                offering.cancel()
                sending.cancel()
                await asyncio.wait([sending])
                committing.cancel()
            assert pool.settled()
            return control

    with tempfile.TemporaryDirectory() as folder:
        control = asyncio.run(run(Path(folder)))
    assert sorted(control.ended) == sorted(control.reserved)
