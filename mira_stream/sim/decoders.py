"""The sequences that decode, accounted together: each gains one token a step, so a step costs next to nothing.

Which of them open a new KV block in a step depends only on their length when they joined and on the number of the
step, and so does the step in which each ends. A step without a beginning or an end is then a few additions, however
many decode.
"""

from heapq import heappop, heappush

from mira_stream.sim.sequence import Pace, Phase, Sequence


class Decoders:
    """All sequences that decode. `begin` and `end` in turn move all of them by one token."""

    __slots__ = ("_block_tokens", "_ends", "_opening", "count", "pace")

    def __init__(self, block_tokens: int) -> None:
        self.count = 0
        self.pace = Pace()
        self._block_tokens = block_tokens
        self._opening = [0] * block_tokens  # by step number modulo block: how many need a new block then
        self._ends: list[tuple[int, int, Sequence]] = []  # heap: last step, admission number, sequence

    @property
    def opening(self) -> int:
        """Blocks that the next step opens."""
        return self._opening[self.pace.begun % self._block_tokens]

    def join(self, sequence: Sequence) -> None:
        """A prefilled sequence that lacks at least one token decodes from the next step on."""
        left = sequence.output_tokens - sequence.generated
        assert left
        sequence.join(self.pace)
        self._opening[self._slot(sequence)] += 1
        self.count += 1
        heappush(self._ends, (self.pace.ended + left, sequence.number, sequence))

    def leave(self, sequence: Sequence) -> int:
        """Take one out; returns the tokens for which it holds KV blocks."""
        self._opening[self._slot(sequence)] -= 1
        self.count -= 1
        return sequence.leave()

    def begin(self) -> None:
        """A step has begun."""
        self.pace.begun += 1

    def end(self) -> list[Sequence]:
        """A step has ended; returns those that have their last token, oldest first. They have yet to leave."""
        pace = self.pace
        pace.ended += 1
        done: list[Sequence] = []
        while self._ends and self._ends[0][0] <= pace.ended:
            _, number, sequence = heappop(self._ends)
            # An entry may be of a sequence that was aborted, or preempted and admitted again under a new number.
            if sequence.phase is Phase.RUNNING and sequence.number == number:
                done.append(sequence)
        return done

    def _slot(self, sequence: Sequence) -> int:
        # It opens a block when all its blocks are full: computed + steps from now on ≡ 0.
        return (self.pace.ended - sequence.computed) % self._block_tokens
