"""`mira-stream plan`: samples the corpus as the daemon reads it, and hands it to the model of the replicas."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

import msgspec
from rich.console import Console
from rich.status import Status

from mira_stream import __version__
from mira_stream.audit.bench.sample import SampleLimits
from mira_stream.audit.plan.assumptions import Assumptions, assumptions, gpu_named, parse_values
from mira_stream.audit.plan.cases import Grid, Load, best_by_layout, play_all, swings
from mira_stream.audit.plan.corpus import ContextLimits, corpus_figures, notes
from mira_stream.audit.plan.costs import parse_layout
from mira_stream.audit.plan.lengths import lengths
from mira_stream.audit.plan.play import Request
from mira_stream.audit.plan.report import Plan, quantiles, tell, write
from mira_stream.audit.plan.values import CorpusFigures, Length, Outcome
from mira_stream.cli_corpus import Corpus, config_for, pool_of
from mira_stream.core.errors import Refusal
from mira_stream.daemon.config import Config
from mira_stream.daemon.pools import PoolPlan

LAYOUTS = ("8xtp1", "1xtp8")
BATCHED_TOKENS = (16_384, 131_072)
_SEED = 7
_PLAIN_WIDTH = 120
_PROMPT_TOKENS_MIN = 1024
_BATCHED_MIN, _BATCHED_MAX = 16, 1 << 24


class PlanRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line asks for; as its options say. Empty sequences stand for the defaults."""

    config: Path | None = None
    corpus: str | None = None
    group: str | None = None
    records: int = SampleLimits().records
    objects: int = SampleLimits().objects
    layouts: Sequence[str] = ()
    contexts: Sequence[int] = ()
    batched_tokens: Sequence[int] = ()
    gpu: str = "h200"
    values: Mapping[str, str] = {}
    seed: int = _SEED


class Looked(msgspec.Struct, frozen=True, kw_only=True):
    """A request, what it comes to, and what was found in its corpus."""

    request: PlanRequest
    config: Config
    plan: PoolPlan
    given: Assumptions
    grid: Grid
    figures: CorpusFigures
    found: list[Length]


async def look(request: PlanRequest) -> Looked:
    """Sample the corpus; progress goes to stderr. Raises Refusal and store errors."""
    if request.corpus is None and request.config is None:
        raise Refusal(
            "there is no corpus to plan for", "give --corpus FILE, FOLDER or s3://bucket/prefix, or --config"
        )
    config = config_for(request.config, group=request.group)
    plan = pool_of(config, request.group)
    given = assumptions(gpu_named(request.gpu), output_tokens=config.admission.output_tokens)
    given = given.replaced(parse_values(request.values))
    grid = _grid(request, plan)
    corpus = Corpus(config=config, plan=plan, uri=request.corpus)
    with _talk().status("reading the corpus") as status:
        figures, found = await _sampled(corpus, request, grid, status)
    return Looked(
        request=request, config=config, plan=plan, given=given, grid=grid, figures=figures, found=found
    )


def make_plan(looked: Looked) -> Plan:
    """Play it all. Takes many seconds of pure work, so not on an event loop: there no ctrl-C would end it."""
    request, config, plan, given = looked.request, looked.config, looked.plan, looked.given
    figures, found = looked.figures, looked.found
    load = _load(config, plan, figures, found)
    with _talk().status("playing") as status:
        outcomes, unfit = play_all(
            looked.grid, load, given, on_played=lambda text: status.update(f"played {text}")
        )
        swung = swings(
            best_by_layout(outcomes),
            looked.grid.layouts,
            load,
            given,
            on_played=lambda text: status.update(f"varied {text}"),
        )
    return Plan(
        version=__version__,
        group=plan.group,
        model=plan.model,
        gpu=request.gpu.lower(),
        seed=request.seed,
        corpus=figures,
        quantiles=quantiles([one.tokens for one in found if one.reason is None]),
        assumptions=list(given),
        outcomes=outcomes,
        unfit=unfit,
        swings=swung,
        notes=[*notes(figures, names_max=SampleLimits().names), *_notes(outcomes, config, given)],
    )


def _talk() -> Console:
    return Console(file=sys.stderr, highlight=False)


def print_plan(plan: Plan, *, out: Path | None, as_json: bool) -> None:
    """The plan to stdout, and into the folder `out` if there is one. Raises Refusal if it cannot be written."""
    if as_json:
        sys.stdout.write(f"{msgspec.json.encode(plan).decode()}\n")
    else:
        tell(Console(highlight=False, width=None if sys.stdout.isatty() else _PLAIN_WIDTH), plan)
    if out is not None:
        for line in write(plan, out):
            Console(file=sys.stderr, highlight=False).print(line, markup=False, soft_wrap=True)


def _grid(request: PlanRequest, plan: PoolPlan) -> Grid:
    own, output = plan.prompting.context_tokens, plan.prompting.max_tokens
    contexts = sorted(set(request.contexts or (own // 2, own)))
    batched = sorted(set(request.batched_tokens or BATCHED_TOKENS))
    least = output + _PROMPT_TOKENS_MIN
    if not request.contexts:
        contexts = [context for context in contexts if context >= least] or [own]
    if contexts[0] < least:
        raise Refusal(
            f"--context {contexts[0]} has no room for a record beside a reply of {output} tokens",
            f"give at least {least}, or lower max_tokens in [request]",
        )
    wrong = next((one for one in batched if not _BATCHED_MIN <= one <= _BATCHED_MAX), None)
    if wrong is not None:
        raise Refusal(f"--batched-tokens {wrong} is no batch limit", "131072 is what the model's card has")
    layouts = [parse_layout(text) for text in dict.fromkeys(request.layouts or LAYOUTS)]
    return Grid(layouts=layouts, contexts=contexts, batched_tokens=batched)


async def _sampled(
    corpus: Corpus, request: PlanRequest, grid: Grid, status: Status
) -> tuple[CorpusFigures, list[Length]]:
    """Raises Refusal where there is nothing to plan for."""
    chance = Random(request.seed)  # noqa: S311 - the same sample each time
    limits = SampleLimits(records=request.records, objects=request.objects)
    taken = await corpus.sample(
        limits, chance, on_lines=lambda lines: status.update(f"reading the corpus: {lines} lines")
    )
    found = lengths(taken, corpus.preparing())
    if not any(one.reason is None for one in found):
        raise _nothing(corpus, taken.listed, found)
    prompting = corpus.plan.prompting
    prompts = [context - prompting.max_tokens for context in grid.contexts]
    context_limits = ContextLimits(grid.contexts, prompts, prompting.truncate)
    return corpus_figures(corpus.origin, taken, found, limits=context_limits, random=chance), found


def _load(config: Config, plan: PoolPlan, figures: CorpusFigures, found: list[Length]) -> Load:
    prompting = plan.prompting
    request = Request(prompting.template.shared_tokens, prompting.max_tokens, config.admission)
    return Load(found=found, corpus=figures, request=request, cut=prompting.truncate)


def _nothing(corpus: Corpus, listed: int, found: Sequence[Length]) -> Refusal:
    if not listed:
        return Refusal(
            f"{corpus.origin} has no object that the daemon would read for {corpus.plan.group}",
            "names must end in .jsonl or .ndjson, with .zst or .gz or without; see include of [source]",
        )
    reasons = [one.reason for one in found if one.reason is not None]
    why = ", ".join(f"{reasons.count(reason)} {reason}" for reason in dict.fromkeys(reasons)) or "no lines"
    return Refusal(
        f"{corpus.origin} has no record that can be scored: {why}", "try one with `mira-stream render FILE`"
    )


def _notes(outcomes: Sequence[Outcome], config: Config, given: Assumptions) -> list[str]:
    said = []
    most = max(one.played.running for one in outcomes)
    if most > config.admission.requests_max:
        said.append(
            f"up to {most:.0f} requests run in one replica, more than [admission] requests_max "
            f"{config.admission.requests_max} lets the daemon send: raise it, and --max-num-seqs of the replicas"
        )
    if unsteady := [one for one in outcomes if not one.played.settled]:
        names = "; ".join(
            f"{one.setting.layout} {one.setting.context} {one.setting.batched_tokens}" for one in unsteady
        )
        said.append(f"not steady when the play ended: {names}")
    if given["modelled_replicas"] < max(parse_layout(one.setting.layout).replicas for one in outcomes):
        said.append(f"{given['modelled_replicas']:.0f} replicas were played and scaled up")
    if any(one.scored_share < 1 for one in outcomes):
        said.append("over-long records are left out, as [request] overflow says, and not in the GPU-hours")
    return said
