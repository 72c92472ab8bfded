"""From a raw line to a request that is ready to be sent, or to the outcome of a record that cannot be asked about."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor

import msgspec

from mira_stream.core.decode import decode, field_text
from mira_stream.core.errors import MiraStreamError
from mira_stream.core.fit import Zone, truncate_middle, zone
from mira_stream.core.outcome import Reason
from mira_stream.core.prompt import PromptTemplate, neutralise_rendered
from mira_stream.core.request import RequestEncoder
from mira_stream.core.tokens import Estimator
from mira_stream.core.trace import Shape, render
from mira_stream.pipeline.account import Stage
from mira_stream.pipeline.channel import Closed
from mira_stream.pipeline.commit import Committer
from mira_stream.pipeline.raw import RawChannel, RawRecord
from mira_stream.pipeline.rows import RowMaker, Subject
from mira_stream.ports import Clock
from mira_stream.telemetry import registry as metrics
from mira_stream.telemetry.meters import Meters

_OFF_LOOP_BYTES = 512 << 10
"""Lines longer than this are prepared in the executor: a few milliseconds of work would stall the loop."""


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """A record that is ready to be sent. `prompt_tokens` is what admission counts; `raw_tokens` is the estimate
    before any correction, which the real count is compared with."""

    subject: Subject
    body: bytes
    prompt_tokens: int
    raw_tokens: int


class Prompting(msgspec.Struct, frozen=True, kw_only=True):
    """How a pool asks: its template, its request, and how many tokens prompt and reply may have together."""

    group: str
    template: PromptTemplate
    encoder: RequestEncoder
    context_tokens: int
    max_tokens: int
    truncate: bool

    @property
    def prompt_tokens_max(self) -> int:
        return self.context_tokens - self.max_tokens
