"""Whatever is reserved, settled and seen in whatever order: the sums are right, and evidence never overstates."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mira_stream.control.permits import Holdings, Permit

TOKENS = st.integers(0, 70_000)
PICK = st.integers(0, 1 << 30)


class PermitsMachine(RuleBasedStateMachine):
    """Holdings beside an engine that really works first come, first served, and is looked at now and then.

    The engine prefills in order, a look tells its queue, and what is shown as prefilled must be prefilled.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held = Holdings()
        self.sent: dict[int, Permit] = {}
        self.waiting: list[int] = []
        self.numbers = 0
        self.now = 0.0

    @rule(prompt=TOKENS, reply=TOKENS)
    def send(self, prompt: int, reply: int) -> None:
        self.numbers += 1
        self.now += 1.0
        permit = Permit(self.numbers, self.numbers, "a", prompt, prompt + reply, self.now)
        self.held.reserve(permit)
        self.sent[permit.number] = permit
        self.waiting.append(permit.number)

    @precondition(lambda self: self.waiting)
    @rule()
    def prefill(self) -> None:
        """The engine takes the oldest of its queue."""
        self.waiting.pop(0)

    @precondition(lambda self: len(self.sent) > len(self.waiting))
    @rule(pick=PICK)
    def answer(self, pick: int) -> None:
        """Any request that has been prefilled may end first."""
        done = [number for number in self.sent if number not in self.waiting]
        number = done[pick % len(done)]
        self._settle(number, answered=True)

    @precondition(lambda self: self.sent)
    @rule(pick=PICK)
    def fail(self, pick: int) -> None:
        """Any request may fail, time out or be cancelled, prefilled or not."""
        number = list(self.sent)[pick % len(self.sent)]
        self._settle(number, answered=False)
        if number in self.waiting:
            self.waiting.remove(number)

    def _settle(self, number: int, *, answered: bool) -> None:
        alone = self.held.settle(self.sent.pop(number), answered=answered)
        assert not alone or not self.sent

    @rule(foreign=st.integers(0, 3))
    def look(self, foreign: int) -> None:
        """What is asked for now shows the queue of now, with other people's requests in it."""
        self.now += 1.0
        self.held.looked(self.now, waiting=len(self.waiting) + foreign)

    @invariant()
    def the_sums_are_right(self) -> None:
        assert len(self.held) == len(self.sent)
        assert self.held.tokens == sum(permit.tokens for permit in self.sent.values())

    @invariant()
    def evidence_never_overstates(self) -> None:
        truly = sum(self.sent[number].prompt_tokens for number in self.waiting)
        sent = sum(permit.prompt_tokens for permit in self.sent.values())
        assert truly <= self.held.unprefilled_tokens <= sent

    def teardown(self) -> None:
        """Everything is settled once; then nothing is held, exactly."""
        for number in list(self.sent):
            self._settle(number, answered=False)
        assert (len(self.held), self.held.tokens, self.held.unprefilled_tokens) == (0, 0, 0)


TestPermits = PermitsMachine.TestCase
