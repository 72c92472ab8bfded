"""What a failed request means: the record's fault, the replica's, or the configuration's; asked of the replica if need be."""

import asyncio
from collections.abc import Mapping

from mira_stream.control.admission import PoolControl
from mira_stream.control.retry import Fault, classify
from mira_stream.core.errors import Permanent, Saturated, Transient
from mira_stream.pipeline.request import PoolIdentity, PoolRequest
from mira_stream.ports import Clock, Replica

_AMBIGUOUS = (400, 413, 422)
"""What a server says both to a bad record and to bad settings."""
_TOO_LONG = "input_tokens"
"""The `param` of a refusal that means the record for certain."""
_PROOF_SECONDS = 300.0
_WARM_UP_SECONDS = 60.0


class Faults:
    """Judges failures of one pool's requests."""

    def __init__(
        self, pool: PoolIdentity, control: PoolControl, replicas: Mapping[str, Replica], clock: Clock
    ) -> None:
        self._pool = pool
        self._control = control
        self._replicas = replicas
        self._clock = clock
        self._proofs: dict[str, asyncio.Lock] = {}

    async def prove(self, name: str) -> bool:
        """Ask a replica about the canned record: whether it works and accepts our settings. Small, and rare enough
        to go beside the permits: before a replica is trusted again, or before a refusal stops the pool.

        Raises Transient or Saturated if it cannot say now.
        """
        replica = self._replicas.get(name)
        if replica is None:
            return False  # it has left meanwhile
        try:
            await replica.ask(self._pool.canned, timeout_seconds=_PROOF_SECONDS)
        except Permanent:
            return False
        self._control.proved(name, self._clock())
        return True

    async def warm_up(self, name: str) -> None:
        """Send what all prompts begin with, so that the engine's prefix cache holds it from a boundary on. Whether
        it helped is for the hit counters to say; a failure means nothing."""
        replica = self._replicas.get(name)
        if replica is None:
            return
        try:
            await replica.ask(self._pool.warm_up, timeout_seconds=_WARM_UP_SECONDS)
        except (Transient, Saturated, Permanent):
            return

    async def judge(
        self, name: str, request: PoolRequest, error: Transient | Saturated | Permanent
    ) -> tuple[Fault, bool]:
        """What the error means, and whether the replica could say so.

        If it could not, the replica's own trouble decides: the request is tried again later.
        """
        certain = True
        try:
            accepts = await self._accepts_others(name, error)
        except (Transient, Saturated) as trouble:
            error, accepts, certain = trouble, False, False
        over = request.prepared.prompt_tokens > self._pool.prompting.prompt_tokens_max
        return classify(error, others_answered=accepts, over_length=over), certain

    async def _accepts_others(self, name: str, error: Transient | Saturated | Permanent) -> bool:
        """Whether the replica is known to accept our settings; where that decides what `error` means, it is asked."""
        if not isinstance(error, Permanent) or error.status not in _AMBIGUOUS or error.param == _TOO_LONG:
            return self._control.others_answered(name, self._clock())
        # One at a time: wrong settings fail everything that is in flight at once, and the first finding is for all.
        async with self._proofs.setdefault(name, asyncio.Lock()):
            if self._control.others_answered(name, self._clock()):
                return True
            return self._control.stopped is None and name in self._replicas and await self.prove(name)
