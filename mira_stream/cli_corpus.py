"""For commands that look at a corpus: the pool that it is for, and a sample of it, read as the daemon reads."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random

import msgspec

from mira_stream.audit.bench.bodies import Body, Preparing, prepare
from mira_stream.audit.bench.sample import Sample, SampleLimits, sample
from mira_stream.audit.bench.values import Sampled
from mira_stream.core.errors import Refusal
from mira_stream.core.naming import SourceNaming
from mira_stream.core.sight import SeenObject
from mira_stream.daemon.config import Config, load_config, parse_config
from mira_stream.daemon.pools import PoolPlan, plan_pools, pool_for
from mira_stream.pipeline.draft import Prompting
from mira_stream.source.store import open_store
from mira_stream.source.tail import TailSource

_NOWHERE = "http://localhost:8000"


def config_for(
    path: Path | None, *, group: str | None, model: str | None = None, replicas: Sequence[str] = ()
) -> Config:
    """The configuration at `path`, or without one the least that stands for the other arguments. Raises Refusal."""
    if path is not None:
        return load_config(path)
    pool: dict[str, object] = {"group": group or "agent/A", "replicas": list(replicas) or [_NOWHERE]}
    if model:
        pool["model"] = model
    lines = [f"{key} = {msgspec.json.encode(value).decode()}" for key, value in pool.items()]
    sections = ["[source]", 'uri = "/nowhere/source"', "[sink]", 'uri = "/nowhere/sink"', "[[pool]]", *lines]
    return parse_config("\n".join(sections), "the options")


def pool_of(config: Config, group: str | None) -> PoolPlan:
    """The pool of `group`, or the only one. Raises Refusal."""
    plans = plan_pools(config)
    groups = ", ".join(plan.group for plan in plans)
    if group is None and len(plans) > 1:
        raise Refusal(f"the configuration has {len(plans)} pools", f"choose one with --group: {groups}")
    found = next((plan for plan in plans if group in (None, plan.group)), None)
    if found is None:
        raise Refusal(f"the configuration has no pool for {group}", f"it has {groups}")
    return found


class Corpus(msgspec.Struct, frozen=True, kw_only=True):
    """What is sampled: `uri`, or `[source]` of the configuration where that is None.

    Of a configuration's own source only the pool's records are taken; a `uri` is all for the pool.
    """

    config: Config
    plan: PoolPlan
    uri: str | None = None

    async def sample(self, limits: SampleLimits, random: Random, on_lines: Callable[[int], None]) -> Sample:
        """Some of its lines. Raises Refusal and store errors."""
        by_field = self._naming.field is not None
        plans = plan_pools(self.config)

        def wanted(seen: SeenObject) -> bool:
            if self.uri is not None or by_field:
                return True
            pool = pool_for(plans, seen.source)
            return pool is not None and pool.group == self.plan.group

        with self._opened() as source:
            return await sample(source, limits, wanted=wanted, random=random, on_lines=on_lines)

    def bodies(self, taken: Sample, random: Random) -> tuple[list[Body], Sampled]:
        """The requests for a sample, and what is to be said of it. Raises Refusal if there is nothing to send."""
        bodies, told = prepare(taken, self.preparing(), origin=self.origin, random=random)
        if not bodies:
            raise _nothing_to_send(self.origin, told, self.plan)
        return bodies, told

    @property
    def origin(self) -> str:
        """Where it is."""
        return self.uri if self.uri is not None else self.config.source.uri

    def preparing(self) -> Preparing:
        """What turns its lines into requests."""
        plans = plan_pools(self.config)

        def prompting_of(source: str) -> Prompting | None:
            pool = self.plan if self.uri is not None else pool_for(plans, source)
            return None if pool is None else pool.prompting

        return Preparing(
            prompting=self.plan.prompting,
            prompting_of=prompting_of,
            name_field=None if self.uri is not None else self._naming.field,
        )

    @property
    def _naming(self) -> SourceNaming:
        return SourceNaming.parse(self.config.source.name_from)

    @contextmanager
    def _opened(self) -> Iterator[TailSource]:
        """A store, a folder, or a single local file; a torn last line counts, for nothing is followed."""
        uri = self.uri if self.uri is not None else self.config.source.uri
        settings = msgspec.structs.replace(self.config.source, uri=uri, grow_settle_seconds=0.0)
        file = Path(uri).expanduser()
        if "://" not in uri and not file.exists():
            raise Refusal(
                f"there is no corpus {uri}", "give a JSONL file, a folder of them, or s3://bucket/prefix"
            )
        if "://" not in uri and file.is_file():
            folder = str(file.resolve().parent)
            settings = msgspec.structs.replace(settings, uri=folder, include=(file.name,))
        store = open_store(settings.uri, settings.store)
        source = TailSource(store, settings, self._naming, wall_clock=time.time)
        try:
            yield source
        finally:
            source.close()


def _nothing_to_send(origin: str, told: Sampled, plan: PoolPlan) -> Refusal:
    if not told.listed:
        return Refusal(
            f"{origin} has no object that the daemon would read for {plan.group}",
            "names must end in .jsonl or .ndjson, with .zst or .gz or without; see include of [source]",
        )
    why = ", ".join(f"{count} {reason}" for reason, count in told.left_out.items()) or "no lines"
    return Refusal(f"{origin} has no record to send: {why}", "try one with `mira-stream render FILE`")
