"""`mira-stream check`: everything that can be wrong before a record is scored, in words that say what to do."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum

import msgspec

from mira_stream.control.selftest import self_test
from mira_stream.core.errors import MiraStreamError, Refusal
from mira_stream.core.reply import parse
from mira_stream.daemon.aggregators import load_aggregators
from mira_stream.daemon.config import Config
from mira_stream.daemon.counters import canned_chat, open_counters
from mira_stream.daemon.http_guard import guard_of
from mira_stream.daemon.lake import open_ledger, open_stores, probe_stores
from mira_stream.daemon.pools import PoolPlan, plan_pools
from mira_stream.pipeline.watch import unfit
from mira_stream.replica.vllm import VllmReplica, open_session
from mira_stream.telemetry.meters import Meters

_CANNED_SECONDS = 300.0


class Verdict(StrEnum):
    OK = "ok"
    NOTE = "note"
    FAILED = "failed"


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at; `hint` says what to do where it failed."""

    what: str
    verdict: Verdict
    says: str
    hint: str = ""


class Report(msgspec.Struct, frozen=True):
    """All findings."""

    findings: Sequence[Finding]

    @property
    def passed(self) -> bool:
        return all(finding.verdict is not Verdict.FAILED for finding in self.findings)

    def lines(self) -> list[str]:
        """For a terminal."""
        lines = []
        for finding in self.findings:
            lines.append(f"{finding.verdict.value:7} {finding.what}: {finding.says}")
            if finding.hint:
                lines.append(f"        → {finding.hint}")
        lines.append("all is well" if self.passed else "not ready: see what failed above")
        return lines


async def check_all(config: Config, *, offline: bool) -> Report:
    """Look at everything, or (`offline`) at what needs neither stores nor replicas. Raises Refusal if the
    configuration itself cannot be used."""
    guard_of(config.http)
    plans = plan_pools(config)
    stores = open_stores(config, Meters())
    aggregators = load_aggregators(config.aggregate, plans)
    findings = [_rubric_finding(plan) for plan in plans]
    findings.append(_gates_finding(config))
    counted, canned = await _check_counters(config, plans)
    findings += counted
    if config.aggregate.enabled:
        fingerprints = ", ".join(sorted({one.fingerprint for one in aggregators.values()}))
        findings.append(Finding("aggregate", Verdict.OK, f"masks are of these rubrics; {fingerprints}"))
    findings.append(Finding("calibration", Verdict.NOTE, _UNCALIBRATED))
    findings.append(await _tried("ledger", lambda: _check_ledger(config, stores.sink.uri)))
    if not offline:
        findings.append(await _tried("stores", lambda: _check_stores(config)))
        findings += await _check_replicas(config, plans, canned)
    return Report(findings)


_UNCALIBRATED = (
    "the calibration texts are this project's own: scores are uncalibrated until MIRA's own text is in "
    "(anchors/README.md)"
)


def _rubric_finding(plan: PoolPlan) -> Finding:
    return Finding(
        f"rubric of {plan.group}",
        Verdict.OK,
        f"{len(plan.rubric.criteria)} slots, fingerprint {plan.rubric.fingerprint}, prompt "
        f"{plan.prompting.template.fingerprint}; sources {', '.join(sorted(plan.sources))}",
    )


def _gates_finding(config: Config) -> Finding:
    stuck = self_test(config.admission)
    if stuck:
        return Finding("gates of admission", Verdict.FAILED, "; ".join(stuck), "correct [admission]")
    return Finding("gates of admission", Verdict.OK, "each was tried: it closes, and it opens again")


async def _tried(what: str, check: Callable[[], Awaitable[str]]) -> Finding:
    try:
        return Finding(what, Verdict.OK, await check())
    except MiraStreamError as error:
        return Finding(what, Verdict.FAILED, str(error), error.hint if isinstance(error, Refusal) else "")


async def _check_ledger(config: Config, sink_uri: str) -> str:
    ledger = open_ledger(config, sink_uri)
    try:
        waiting = sum(backlog.rows for backlog in await ledger.backlogs())
    finally:
        await ledger.close()
    return f"{config.ledger.path}: {waiting} outcomes wait to be published"


async def _check_stores(config: Config) -> str:
    stores = open_stores(config, Meters())
    notes = await probe_stores(config, stores)
    return "; ".join([f"{stores.source.uri} and {stores.sink.uri} keep their conditions", *notes])


async def _check_counters(
    config: Config, plans: Sequence[PoolPlan]
) -> tuple[list[Finding], Mapping[str, bytes]]:
    """How each pool's prompts are counted, and the canned request of each; loads the tokenizers. Raises Refusal."""
    with ThreadPoolExecutor(1, "check") as executor:
        async with open_counters(config, plans, executor=executor, meters=Meters()) as counters:
            says = {group: counter.says for group, counter in counters.items()}
            canned = {group: counter.canned for group, counter in counters.items()}
    return [
        Finding(f"tokens of {plan.group}", Verdict.OK, says.get(plan.group, _ESTIMATED)) for plan in plans
    ], canned


_ESTIMATED = "estimated, and counted by the replicas near the limit; exact with the pool's `tokenizer`"


async def _check_replicas(
    config: Config, plans: Sequence[PoolPlan], canned: Mapping[str, bytes]
) -> list[Finding]:
    findings = []
    async with open_session(config.replica) as session:
        for plan in plans:
            for url in plan.replicas:
                replica = VllmReplica(
                    url, session, api_key=plan.api_key, mode=config.request.mode, settings=config.replica
                )
                findings.append(
                    await _check_replica(replica, plan, canned.get(plan.group) or canned_chat(plan))
                )
    return findings


async def _check_replica(replica: VllmReplica, plan: PoolPlan, body: bytes) -> Finding:
    what = f"replica {replica.name}"
    try:
        served = tuple(await replica.models())
        problem = unfit(served, plan.model, plan.prompting.context_tokens)
        if problem is not None:
            return Finding(what, Verdict.FAILED, problem, _UNFIT_HINT)
        reply = await replica.ask(body, timeout_seconds=_CANNED_SECONDS)
    except MiraStreamError as error:
        return Finding(what, Verdict.FAILED, str(error), "is it up, and are [request] and the API key right?")
    parsed = parse(reply.text, reply.finish_reason, plan.prompting.slots)
    seconds = f"{reply.latency_seconds:.1f} s"
    if not parsed.complete:
        missing = ", ".join(parsed.missing)
        return Finding(
            what,
            Verdict.NOTE,
            f"answered in {seconds}, but its reply lacks {missing}",
            "one reply may be damaged; if it is always so, the model was not trained on this rubric's lines",
        )
    return Finding(what, Verdict.OK, f"serves {plan.model}, scored the canned record in {seconds}")


_UNFIT_HINT = "serve the model that groups.toml or the pool's `model` names, with at least its context_tokens"
