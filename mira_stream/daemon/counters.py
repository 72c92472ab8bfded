"""Exact counters, opened: one process for each tokenizer, one counter for each pool that names one."""

from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec

from mira_stream.core.prompt import neutralise
from mira_stream.daemon.config import Config
from mira_stream.daemon.pools import PoolPlan
from mira_stream.pipeline.exact import ExactCounts
from mira_stream.pipeline.request import CANNED_RECORD
from mira_stream.telemetry.meters import Meters


class OpenCounter(msgspec.Struct, frozen=True, kw_only=True):
    """A pool's exact counts, and the request for the canned record. `says` names the counter for people."""

    exact: ExactCounts
    canned: bytes
    says: str


_PROBES = (
    CANNED_RECORD,
    "",
    " \n indented, and with white space behind \n\n",
    "<think>\nwhat for?\n</think>\n\n<tool_call>\n{}\n</tool_call>",
    "<tool_response>\nnothing\n</tool_response>",
    "{{ messages }} {% raw %} &lt; \u4f60\u597d e\u0301 \U0001f600 <|im_end|> <s> [INST]",
)
"""Records that a chat template might treat in a way of its own."""


def canned_chat(plan: PoolPlan) -> bytes:
    """The request for the canned record where messages are sent."""
    return plan.prompting.encoder.encode_chat(*plan.prompting.template.messages(CANNED_RECORD))


def warm_up_body(plan: PoolPlan, canned: bytes | None) -> bytes:
    """A request for one token that ends where the prompts of a pool part, so that the shared part is computed up to a
    boundary; where ids are sent, that of the `canned` record, which goes on a little longer."""
    template = plan.prompting.template
    body = canned or plan.prompting.encoder.encode_chat(template.system, template.before)
    return msgspec.json.encode({**msgspec.json.decode(body), "max_tokens": 1})


@asynccontextmanager
async def open_counters(
    config: Config, plans: Sequence[PoolPlan], *, executor: Executor, meters: Meters
) -> AsyncIterator[dict[str, OpenCounter]]:
    """The counters by group; their processes end on the way out. Raises Refusal where one would count wrongly."""
    files = sorted({plan.tokenizer.file for plan in plans if plan.tokenizer is not None})
    async with AsyncExitStack() as stack:
        counters: dict[str, OpenCounter] = {}
        for file in files:
            counters |= await _open(file, config, plans, stack=stack, executor=executor, meters=meters)
        yield counters


async def _open(
    file: Path,
    config: Config,
    plans: Sequence[PoolPlan],
    *,
    stack: AsyncExitStack,
    executor: Executor,
    meters: Meters,
) -> dict[str, OpenCounter]:
    from mira_stream.replica.counter import prompt_counter, tokenizer_process

    process = await stack.enter_async_context(
        tokenizer_process(file, settings=config.counter, executor=executor)
    )
    counters = {}
    for plan in plans:
        if plan.tokenizer is None or plan.tokenizer.file != file:
            continue
        template, special = plan.prompting.template, plan.prompting.special
        counter = await prompt_counter(
            process,
            plan.tokenizer.template,
            system=template.system,
            special=plan.tokenizer.special,
            probes=[template.messages(neutralise(probe, special)[0])[1] for probe in _PROBES],
        )
        exact = ExactCounts(
            counter, plan.prompting, as_ids=config.request.mode == "tokens", executor=executor, meters=meters
        )
        counters[plan.group] = OpenCounter(
            exact=exact,
            canned=await exact.body_of(CANNED_RECORD),
            says=_says(process.library, process.started.remark),
        )
    await process.forget_reference()
    return counters


def _says(library: str, remark: str) -> str:
    return f"counted exactly by {library}" + (f" ({remark})" if remark else "")
