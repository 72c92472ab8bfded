"""`mira-stream bench`: puts corpus, prompts and replicas together as the daemon does, and hands them to the bench."""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import msgspec
from rich.console import Console

from mira_stream import __version__
from mira_stream.audit.bench.advice import Effort, Target, Verdict, conclude, effort, target
from mira_stream.audit.bench.bodies import Bodies, Body
from mira_stream.audit.bench.fleet import Fleet, Pace
from mira_stream.audit.bench.measure import POINTS_EXPECTED, Measured, MeasureSettings, Measuring
from mira_stream.audit.bench.progress import Bar
from mira_stream.audit.bench.report import Report, tell, tell_corpus, write
from mira_stream.audit.bench.sample import SampleLimits
from mira_stream.audit.bench.values import Sampled
from mira_stream.cli_corpus import Corpus, config_for, pool_of
from mira_stream.core.errors import MiraStreamError, Refusal
from mira_stream.daemon.config import Config
from mira_stream.daemon.pools import PoolPlan
from mira_stream.demo.long_records import write_long_records
from mira_stream.demo.processes import started
from mira_stream.pipeline.watch import unfit
from mira_stream.ports import Replica
from mira_stream.replica.vllm import VllmReplica, open_session

_SIM_TIME_SCALE = 0.05
_SEED = 7
_PLAIN_WIDTH = 120
_PER_POINT = 2.4
"""What a point takes, warming up included, in units of its steady state."""
_ALONE_SECONDS = 90.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class BenchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line asks for; as its options say."""

    config: Path | None = None
    replicas: Sequence[str] = ()
    sim: int = 0
    sim_settings: Sequence[str] = ()
    corpus: str | None = None
    group: str | None = None
    model: str | None = None
    gpus_per_replica: int = 1
    seconds: float = 120.0
    concurrency: str = "auto"
    records: int | None = None
    target: float | None = None
    time_scale: float | None = None

    @property
    def scale(self) -> float:
        """Wall seconds per second of the replicas."""
        return self.time_scale or (_SIM_TIME_SCALE if self.sim else 1.0)


async def run_bench(request: BenchRequest) -> Report:
    """Run it; progress goes to stderr, and a first SIGINT ends it with the points so far. Raises Refusal."""
    _refuse_contradictions(request)
    settings = MeasureSettings(seconds=request.seconds, concurrency=_concurrency(request.concurrency))
    config = config_for(request.config, group=request.group, model=request.model, replicas=request.replicas)
    plan = pool_of(config, request.group)
    talk = Console(file=sys.stderr, highlight=False)
    with TemporaryDirectory(prefix="mira-stream-bench-") as folder:
        async with _replicas(request, plan, Path(folder)) as replicas:
            await _refuse_unfit(replicas, plan)
            bodies, corpus = await _bodies(request, config, plan, Path(folder), talk)
            tell_corpus(talk, corpus)
            engine_tokens = await _engine_tokens(replicas, talk)
            fleet = Fleet(
                replicas,
                Bodies(plan.prompting, bodies),
                slots=plan.prompting.slots,
                pace=Pace(request.scale, time.monotonic),
                output_tokens=config.admission.output_tokens,
            )
            began = time.monotonic()
            measured = await _measure(fleet, settings, talk)
            wall_seconds = time.monotonic() - began
    verdict = conclude(
        measured,
        replicas=len(replicas),
        gpus_per_replica=request.gpus_per_replica,
        engine_tokens=engine_tokens,
    )
    return Report(
        version=__version__,
        ended=datetime.now(UTC).isoformat(timespec="seconds"),
        group=plan.group,
        model=plan.model,
        replicas=list(replicas),
        simulated=bool(request.sim),
        gpus_per_replica=request.gpus_per_replica,
        seconds_per_point=request.seconds,
        time_scale=request.scale,
        wall_seconds=wall_seconds,
        corpus=corpus,
        measured=measured,
        verdict=verdict,
        effort=_effort(request, verdict),
        target=_target(request, verdict),
    )


def print_report(report: Report, *, out: Path | None, as_json: bool) -> None:
    """The report to stdout, and into the folder `out` if there is one. Raises Refusal if it cannot be written."""
    if as_json:
        sys.stdout.write(f"{msgspec.json.encode(report).decode()}\n")
    else:
        tell(Console(highlight=False, width=None if sys.stdout.isatty() else _PLAIN_WIDTH), report)
    if out is not None:
        for line in write(report, out):
            Console(file=sys.stderr, highlight=False).print(line, markup=False, soft_wrap=True)


def _refuse_contradictions(request: BenchRequest) -> None:
    if request.sim and (request.replicas or request.config):
        raise Refusal(
            "--sim starts replicas of its own", "leave out --replica and --config, or leave out --sim"
        )
    if request.sim_settings and not request.sim:
        raise Refusal("--set is for the replicas that --sim starts", "add --sim 1, or leave out --set")
    if request.config and (request.replicas or request.model):
        raise Refusal("--config names replicas and model", "leave out --replica and --model, or --config")
    if not (request.sim or request.replicas or request.config):
        raise Refusal(
            "there is no replica to measure",
            "give --replica http://host:port, --config, or --sim 1 to try it",
        )


def _concurrency(text: str) -> tuple[int, ...] | None:
    if text == "auto":
        return None
    try:
        steps = tuple(int(part) for part in text.split(","))
    except ValueError:
        steps = (0,)
    if min(steps) < 1:
        raise Refusal(f"--concurrency {text} is not a list of counts", "write 1,2,4,8 or auto")
    return tuple(sorted(set(steps)))


# The replicas.


@asynccontextmanager
async def _replicas(request: BenchRequest, plan: PoolPlan, folder: Path) -> AsyncIterator[dict[str, Replica]]:
    async with AsyncExitStack() as stack:
        urls: Sequence[str] = plan.replicas
        if request.sim:
            logs = [folder / f"replica-{number}.log" for number in range(request.sim)]
            urls = [await stack.enter_async_context(_simulator(request, plan, log)) for log in logs]
        session = await stack.enter_async_context(open_session())
        replicas = [VllmReplica(url, session, api_key=plan.api_key) for url in urls]
        yield {replica.name: replica for replica in replicas}


@asynccontextmanager
async def _simulator(request: BenchRequest, plan: PoolPlan, log: Path) -> AsyncIterator[str]:
    settings = [option for pair in request.sim_settings for option in ("--set", pair)]
    arguments = ("--port", "0", "--model", plan.model, "--time-scale", str(request.scale), *settings)
    async with started("sim", *arguments, log=log) as process:
        try:
            url = await process.first_url()
        except Refusal:
            raise _not_started(log) from None
        yield url


def _not_started(log: Path) -> Refusal:
    said = log.read_text("utf-8").strip()
    return Refusal(f"the simulated replica did not start: {said}", "see docs/reference/sim.md")


async def _refuse_unfit(replicas: Mapping[str, Replica], plan: PoolPlan) -> None:
    for name, replica in replicas.items():
        try:
            problem = unfit(tuple(await replica.models()), plan.model, plan.prompting.context_tokens)
        except MiraStreamError as error:
            raise Refusal(str(error), "all replicas must be up before the bench begins") from error
        if problem is not None:
            hint = "give the name it serves with --model, or in the pool of --config"
            raise Refusal(f"{name}: {problem}", hint)


async def _engine_tokens(replicas: Mapping[str, Replica], talk: Console) -> int | None:
    """What the engines say that a cache of theirs holds, the least of them; says what their metrics lack."""
    said: list[int | None] = []
    for name, replica in replicas.items():
        try:
            load = await replica.load()
        except MiraStreamError as error:
            talk.print(f"note: without metrics, KV capacity and queue stay unknown: {error}", markup=False)
            return None
        if load.running + load.waiting:
            talk.print(f"note: others use {name}: {load.running + load.waiting} requests", markup=False)
        said.append(load.kv_tokens)
    return min((tokens for tokens in said if tokens), default=None)


# The corpus and the measurement.


async def _bodies(
    request: BenchRequest, config: Config, plan: PoolPlan, folder: Path, talk: Console
) -> tuple[list[Body], Sampled]:
    chance, uri = _chance(), request.corpus
    limits = SampleLimits()
    if uri is None and request.config is None:
        uri = str(folder / "demo-sessions.jsonl")
        write_long_records(Path(uri), limits.records, chance)
    corpus = Corpus(config=config, plan=plan, uri=uri)
    with talk.status("reading the corpus") as status:
        taken = await corpus.sample(
            limits, chance, on_lines=lambda lines: status.update(f"reading the corpus: {lines} lines")
        )
        bodies, told = corpus.bodies(taken, chance)
    if request.corpus is None and request.config is None:
        told = msgspec.structs.replace(told, origin="the demo's sessions, made long")
    return bodies, told


async def _measure(fleet: Fleet, settings: MeasureSettings, talk: Console) -> Measured:
    points = (len(settings.concurrency) if settings.concurrency else POINTS_EXPECTED) + 1
    expected = fleet.pace.scale * (_ALONE_SECONDS + points * _PER_POINT * settings.seconds)
    minutes = f"{expected:.0f} seconds" if expected < 90 else f"{expected / 60:.0f} minutes"
    talk.print(
        f"measuring  {len(fleet.replicas)} replicas at {'' if settings.concurrency else 'about '}{points} loads takes "
        f"about {minutes}; ctrl-C ends it with what there is",
        soft_wrap=True,
    )
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop.set)
    try:
        with Bar(talk, points) as bar:
            return await Measuring(fleet, settings, watcher=bar, stop=stop, random=_chance()).run()
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


def _chance() -> Random:
    return Random(_SEED)  # noqa: S311 - the same sample and the same order each time


def _effort(request: BenchRequest, verdict: Verdict) -> Effort | None:
    return effort(verdict.reach, request.records) if verdict.reach and request.records else None


def _target(request: BenchRequest, verdict: Verdict) -> Target | None:
    if verdict.reach is None or not request.target:
        return None
    return target(verdict.reach, request.target, gpus_per_replica=request.gpus_per_replica)
