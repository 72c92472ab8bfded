"""One pool: sends what admission admits, follows up what comes back, and says what limits it."""

import asyncio
from collections.abc import Callable, Mapping
from itertools import count

import structlog

from mira_stream.control.admission import Admitted, PoolControl
from mira_stream.control.permits import Permit
from mira_stream.control.retry import GiveUp, Resend, StopPool
from mira_stream.control.window import Candidate
from mira_stream.core.errors import MiraStreamError, Permanent, Refusal
from mira_stream.core.outcome import LimitingFactor, Reason
from mira_stream.core.reply import ParsedReply, parse
from mira_stream.core.tokens import Estimator
from mira_stream.core.usage import Reply
from mira_stream.pipeline.account import Account, Stage
from mira_stream.pipeline.channel import Closed
from mira_stream.pipeline.commit import Committer
from mira_stream.pipeline.prepare import Prepared, Prompting
from mira_stream.pipeline.rows import Answer, RowMaker
from mira_stream.ports import Clock, Replica
from mira_stream.telemetry import registry as metrics
from mira_stream.telemetry.meters import Meters

_log = structlog.get_logger(__name__)


class _Job:
    """A record on its way through the pool: what to send, and what has happened to it so far."""

    __slots__ = ("attempts", "prepared", "reasks", "requests", "ticket")
