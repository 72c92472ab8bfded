"""Who holds how many tokens where: a permit is reserved once and settled once, and counts are whole tokens.

Two sums per replica: `tokens` (K), what our requests are expected to hold in its KV cache, and `unprefilled_tokens`
(Q_seen), what was sent and is not shown to be prefilled. K needs an exact zero, so nothing here is a float.
"""

import msgspec

_LOOKS = 3
"""Looks after sending, each with a moved generation counter, that show a request as prefilled."""


class Permit(msgspec.Struct, frozen=True):
    """The right to have one request in flight. `tokens` is what it is expected to hold in KV: prompt and reply."""

    number: int
    ticket: int
    replica: str
    prompt_tokens: int
    tokens: int
    sent_at: float


class Holdings:
    """The permits of one replica, in the order they were sent.

    `unprefilled_tokens` falls by evidence only, never by a guess: an engine works first come, first served, so the
    answer to a request shows that everything sent before it has been prefilled.
    """

    def __init__(self) -> None:
        self._permits: dict[int, Permit] = {}
        self._unprefilled: dict[int, int] = {}
        self._looks: dict[int, int] = {}
        self._lone: int | None = None
        self._newest = 0
        self.tokens = 0
        self.unprefilled_tokens = 0

    def __len__(self) -> int:
        return len(self._permits)

    def __repr__(self) -> str:
        return f"Holdings({len(self)} requests, {self.tokens} tokens, {self.unprefilled_tokens} unprefilled)"

    def reserve(self, permit: Permit) -> None:
        """The request goes out now."""
        assert permit.number > self._newest, f"permit {permit.number} is reserved twice or out of order"
        assert permit.tokens >= permit.prompt_tokens >= 0
        self._lone = None if self._permits else permit.number
        self._newest = permit.number
        self._permits[permit.number] = permit
        self._unprefilled[permit.number] = permit.prompt_tokens
        self._looks[permit.number] = 0
        self.tokens += permit.tokens
        self.unprefilled_tokens += permit.prompt_tokens

    def settle(self, permit: Permit, *, answered: bool) -> bool:
        """The request has ended; only an answer is evidence about those sent before it.

        Returns whether it was the only request here from its start to its end.
        """
        assert self._permits.get(permit.number) == permit, f"permit {permit.number} is settled twice"
        del self._permits[permit.number]
        del self._looks[permit.number]
        self.tokens -= permit.tokens
        if answered:
            for number in [earlier for earlier in self._unprefilled if earlier < permit.number]:
                self._prefilled(number)
        self._prefilled(permit.number)
        assert self.tokens >= 0
        assert self.unprefilled_tokens >= 0
        assert self._permits or (self.tokens, self.unprefilled_tokens) == (0, 0), repr(self)
        return self._lone == permit.number

    def looked(self, asked_at: float, *, waiting: int) -> None:
        """A look at the engine, asked for at `asked_at`, in which its generation counter had moved.

        A request that was sent before three such looks has been prefilled, but for the newest `waiting` of them:
        whoever's requests wait, the engine's queue cannot hold more of ours than that.
        """
        assert waiting >= 0
        for number, permit in self._permits.items():
            if permit.sent_at < asked_at:
                self._looks[number] += 1
        seen = [number for number, looks in self._looks.items() if looks >= _LOOKS]
        for number in seen[: max(0, len(seen) - waiting)]:
            self._prefilled(number)

    def _prefilled(self, number: int) -> None:
        self.unprefilled_tokens -= self._unprefilled.pop(number, 0)
