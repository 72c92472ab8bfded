"""The KV cache, counted in blocks: what is held, and what is reserved for what may still be written."""

from mira_stream.sim.sequence import Sequence


class KvBlocks:
    """Counts KV blocks: those held by tokens, and those reserved for what admitted sequences may still write."""

    __slots__ = ("_block_tokens", "capacity", "held", "reserved")

    def __init__(self, capacity: int, block_tokens: int) -> None:
        self.capacity = capacity
        self._block_tokens = block_tokens
        self.held = 0
        self.reserved = 0

    def fits(self, sequence: Sequence) -> bool:
        """Whether the whole of it, output budget and all, fits beside what is reserved."""
        return self.reserved + self.needed(sequence) <= self.capacity

    def needed(self, sequence: Sequence) -> int:
        """Blocks that the sequence can come to hold."""
        return self._blocks(sequence.prompt_tokens + sequence.output_tokens_max)

    def admit(self, sequence: Sequence) -> None:
        """Reserve for the whole sequence; the prompt's blocks are held from now on."""
        self.reserved += self.needed(sequence)
        self.held += self._blocks(sequence.prompt_tokens)
        assert self.held <= self.reserved <= self.capacity

    def grow(self, sequence: Sequence) -> None:
        """Hold one more block if the newest token of `sequence` opened one; call it once per generated token."""
        if (sequence.prompt_tokens + sequence.generated - 1) % self._block_tokens == 0:
            self.held += 1

    def release(self, sequence: Sequence) -> None:
        """Give back everything that an admitted sequence holds and reserves."""
        self.reserved -= self.needed(sequence)
        self.held -= self._blocks(sequence.prompt_tokens + sequence.generated)
        assert 0 <= self.held <= self.reserved

    @property
    def usage(self) -> float:
        """Share of the blocks that is held, 0…1."""
        return self.held / self.capacity

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self._block_tokens)
