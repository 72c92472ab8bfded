"""Planned faults: what goes wrong with which request, written in a small grammar and decided without chance.

    fault  = kind "@" where { ":" option }
    kind   = a status from 400 to 599 | hang | reset | lost | slow | garbage | crash | kill
           | frozen
    where  = "all" | N | N-M | N- | As-Bs | As- | text=WORDS | text="WORDS"
    option = share=0.1 | times=2 | 3x | 2s

Requests are counted from 1 in order of arrival; `text=` looks into the prompt. `10s-70s` is a span of modelled seconds
since the start (wall seconds if answers come at once) and hits the requests that arrive in it. Of several faults that
match, the first one acts.
"""

import re
from collections.abc import Iterable
from enum import StrEnum
from hashlib import blake2b

import msgspec

from mira_stream.core.errors import Refusal


class FaultKind(StrEnum):
    """What goes wrong. Seconds of an option (`:2s`) are wall time."""

    STATUS = "status"  # that status with vLLM's error body; `2s` adds a Retry-After
    HANG = (
        "hang"  # no answer until the client leaves, or for `2s`, or to the end of its span; then it goes on
    )
    RESET = "reset"  # the connection dies before any work
    LOST = "lost"  # all the work is done, then the connection dies instead of the answer
    SLOW = "slow"  # `3x`: takes three times as long; `2s`: takes that much longer
    GARBAGE = "garbage"  # status 200 with something that is not JSON
    CRASH = "crash"  # the engine dies: everything in flight gets a 500, then the server leaves
    KILL = "kill"  # the server is gone at once: every connection dies
    FROZEN = "frozen"  # in its span `/metrics` shows what it showed first there; nothing else is touched


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One planned fault: what, and which requests it hits. `last` None has no end; `text` None looks at no text.

    `since` and `until` are modelled seconds since the start; both None means at any time, `until` None without end.
    """

    rule: str
    kind: FaultKind
    status: int = 0
    first: int = 1
    last: int | None = None
    since: float | None = None
    until: float | None = None
    text: str | None = None
    share: float = 1.0
    times: int | None = None
    factor: float | None = None
    seconds: float | None = None


_FORM = re.compile(r'(?P<kind>\w+)@(?P<where>text="[^"]*"|[^:]*)(?P<options>(?::[^:]*)*)')
_SPAN = re.compile(r"(?P<since>\d+(\.\d+)?)s-((?P<until>\d+(\.\d+)?)s)?")
_NUMBERS = re.compile(r"(?P<first>\d+)(?P<open>-)?(?P<last>\d+)?")
_HINT = "write KIND@WHERE[:OPTION…], for example 500@10-12, slow@all:3x, hang@10s-70s, hang@text=poison, reset@all:share=0.05"


def parse_fault(rule: str) -> Fault:
    """Read one fault. Raises Refusal that says what is wrong with it."""
    match = _FORM.fullmatch(rule.strip())
    if match is None:
        raise _refusal(rule, "it is not KIND@WHERE")
    fields: dict[str, object] = {"rule": rule, **_kind(rule, match["kind"]), **_where(rule, match["where"])}
    for option in match["options"].split(":")[1:]:
        fields |= _option(rule, option)
    fault = msgspec.convert(fields, Fault)
    if fault.kind is FaultKind.SLOW and fault.factor is None and fault.seconds is None:
        raise _refusal(rule, "slow needs a factor (3x) or seconds (2s)")
    if fault.kind is FaultKind.FROZEN and (fault.since is None or match["options"]):
        raise _refusal(rule, "frozen needs a span of time and nothing else, such as frozen@10s-70s")
    return fault


def _refusal(rule: str, message: str) -> Refusal:
    return Refusal(f"fault {rule!r}: {message}", _HINT)


def _kind(rule: str, kind: str) -> dict[str, object]:
    if kind.isascii() and kind.isdigit():
        if not 400 <= int(kind) <= 599:
            raise _refusal(rule, f"a fault's status is 400 to 599, not {kind}")
        return {"kind": FaultKind.STATUS, "status": int(kind)}
    if kind not in set(FaultKind) - {FaultKind.STATUS}:
        raise _refusal(rule, f"there is no fault {kind!r}")
    return {"kind": FaultKind(kind)}


def _where(rule: str, where: str) -> dict[str, object]:
    if where == "all":
        return {}
    if where.startswith("text="):
        text = where.removeprefix("text=").strip('"')
        if not text:
            raise _refusal(rule, "text= needs some text")
        return {"text": text}
    span = _SPAN.fullmatch(where)
    if span is not None:
        return _span(rule, float(span["since"]), float(span["until"]) if span["until"] else None)
    match = _NUMBERS.fullmatch(where)
    if match is None or (match["last"] and not match["open"]):
        raise _refusal(rule, f"{where!r} is not all, N, N-M, N-, a span like 10s-70s, or text=…")
    first = int(match["first"])
    last = int(match["last"]) if match["last"] else None if match["open"] else first
    if first < 1 or (last is not None and last < first):
        raise _refusal(rule, f"requests are counted from 1 upwards, {where!r} names none")
    return {"first": first, "last": last}


def _span(rule: str, since: float, until: float | None) -> dict[str, object]:
    if until is not None and until <= since:
        raise _refusal(rule, f"a span ends after it begins, not at {until:g}s")
    return {"since": since, "until": until}


def _option(rule: str, option: str) -> dict[str, object]:
    name, _, value = option.rpartition("=")
    number = value[:-1] if not name and value[-1:] in {"x", "s"} else value
    if not re.fullmatch(r"\d+(\.\d+)?", number):
        raise _refusal(rule, f"{option!r} is not share=S, times=N, a factor (3x) or seconds (2s)")
    if name == "share" and float(number) <= 1:
        return {"share": float(number)}
    if name == "times" and number.isdigit() and int(number):
        return {"times": int(number)}
    if not name and value.endswith("x") and float(number) >= 1:
        return {"factor": float(number)}
    if not name and value.endswith("s"):
        return {"seconds": float(number)}
    raise _refusal(rule, f"{option!r} is out of range: a share is at most 1, times and factors at least 1")


class FaultPlan:
    """The faults of one replica, and how often each has acted."""

    def __init__(self, rules: Iterable[str], *, seed: int) -> None:
        self._faults = tuple(map(parse_fault, rules))
        self._acted = [0] * len(self._faults)
        self._key = seed.to_bytes(8, "big")

    def frozen(self, now: float) -> bool:
        """Whether `/metrics` stands still at `now`, in modelled seconds since the start."""
        return any(fault.kind is FaultKind.FROZEN and _within(fault, now) for fault in self._faults)

    def decide(self, number: int, text: str, *, now: float = 0.0) -> Fault | None:
        """The fault that hits request `number` (from 1) with that prompt, or None; counts it as acted.

        `now` is when it arrived, in modelled seconds since the start.
        """
        for index, fault in enumerate(self._faults):
            spent = fault.times is not None and self._acted[index] >= fault.times
            if not spent and _within(fault, now) and self._hits(fault, number, text):
                self._acted[index] += 1
                return fault
        return None

    def _hits(self, fault: Fault, number: int, text: str) -> bool:
        if fault.kind is FaultKind.FROZEN:
            return False
        if number < fault.first or (fault.last is not None and number > fault.last):
            return False
        if fault.text is not None and fault.text not in text:
            return False
        return fault.share >= 1 or self._draw(fault, number) < fault.share

    def _draw(self, fault: Fault, number: int) -> float:
        data = f"{number} {fault.rule}".encode()
        return int.from_bytes(blake2b(data, digest_size=6, key=self._key).digest(), "big") / (1 << 48)


def _within(fault: Fault, now: float) -> bool:
    if fault.since is None:
        return True
    return fault.since <= now and (fault.until is None or now < fault.until)
