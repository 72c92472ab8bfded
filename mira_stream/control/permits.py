"""Who holds how many tokens where: permits are reserved and settled exactly once."""

import msgspec


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

    `unprefilled_tokens` (Q_seen) falls by evidence only: an engine works first come, first served, so the answer to a
    request shows that everything sent before it has been prefilled.
    """

    def __init__(self) -> None:
        self._permits: dict[int, Permit] = {}
        self._unprefilled: dict[int, int] = {}
        self._scrapes: dict[int, int] = {}
        self.tokens = 0
        self.unprefilled_tokens = 0

    def __len__(self) -> int:
        return len(self._permits)

    def reserve(self, permit: Permit) -> None:
        """The request goes out now."""
        assert permit.number not in self._permits, f"permit {permit.number} is reserved twice"
        assert permit.tokens >= permit.prompt_tokens >= 0
        self._permits[permit.number] = permit
        self._unprefilled[permit.number] = permit.prompt_tokens
        self._scrapes[permit.number] = 0
        self.tokens += permit.tokens
        self.unprefilled_tokens += permit.prompt_tokens

    def settle(self, permit: Permit, *, answered: bool) -> None:
        """The request has ended. Only an answer is evidence about those sent before it."""
        assert permit.number in self._permits, f"permit {permit.number} is settled twice"
        del self._permits[permit.number]
        self.tokens -= permit.tokens
        earlier = [number for number in self._unprefilled if number < permit.number] if answered else []
        for number in (*earlier, permit.number):
            self._prefilled(number)
        del self._scrapes[permit.number]
        assert self.tokens >= 0
        assert self.unprefilled_tokens >= 0

    def scraped(self, scraped_at: float, *, waiting: int) -> None:
        """A look at the engine in which its generation counter had moved.

        The third such look after sending shows a request as prefilled, but for the newest `waiting` ones.
        """
        sent = [number for number, permit in self._permits.items() if permit.sent_at < scraped_at]
        for number in sent:
            self._scrapes[number] += 1
        for number in sent[: len(sent) - waiting] if waiting else sent:
            if self._scrapes[number] >= 3:
                self._prefilled(number)

    def _prefilled(self, number: int) -> None:
        self.unprefilled_tokens -= self._unprefilled.pop(number, 0)
