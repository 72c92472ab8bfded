"""The KV cache, counted in blocks: what running sequences hold, and what the prefix cache can give again."""

from typing import NamedTuple

from mira_stream.sim.prefix_cache import PrefixCache
from mira_stream.sim.sequence import Sequence


class _Found(NamedTuple):
    """Cached blocks of a sequence, and how many of them nobody holds, at a version of the cache."""

    sequence: Sequence | None
    version: int
    blocks: int
    idle: int


_NOTHING = _Found(None, 0, 0, 0)


class KvBlocks:
    """Counts the blocks that running sequences hold; one that several hold counts once, one that nobody holds is free.

    `state_blocks` is what a running sequence holds beside its tokens (the recurrent state of hybrid models).
    """

    __slots__ = ("_found", "_prefix", "_state_blocks", "block_tokens", "capacity", "held")

    def __init__(
        self, capacity: int, block_tokens: int, *, state_blocks: int = 0, prefix: PrefixCache | None = None
    ) -> None:
        self.capacity = capacity
        self.block_tokens = block_tokens
        self.held = 0
        self._state_blocks = state_blocks
        self._prefix = prefix
        self._found = _NOTHING

    @property
    def free(self) -> int:
        """Blocks that nobody holds."""
        return self.capacity - self.held

    @property
    def usage(self) -> float:
        """Share of the blocks that is held, 0…1."""
        return self.held / self.capacity

    def needed(self, sequence: Sequence) -> int:
        """Blocks that the sequence can come to hold."""
        return self._blocks(sequence.prompt_tokens + sequence.output_tokens_max)

    def missing(self, sequence: Sequence, tokens: int) -> int:
        """Blocks that the sequence lacks to hold its first `tokens` tokens."""
        return self._blocks(tokens) - sequence.blocks

    def hit(self, sequence: Sequence) -> int:
        """Tokens of a waiting sequence that are in the prefix cache; at least one token is always left to compute."""
        return self._look(sequence).blocks * self.block_tokens

    def lacking(self, sequence: Sequence, tokens: int) -> int:
        """Free blocks that a waiting sequence takes to hold `tokens` tokens, what it hits among them."""
        found = self._look(sequence)
        return self._blocks(tokens) - found.blocks + found.idle

    def admit(self, sequence: Sequence, hit: int) -> None:
        """Let the sequence hold the cached blocks that it hits."""
        assert not sequence.blocks
        if self._prefix is not None and hit:
            keys = sequence.keys[: hit // self.block_tokens]
            self.held += self._prefix.hold(keys)
            sequence.held_keys.extend(keys)
            sequence.blocks = len(keys)

    def extend(self, sequence: Sequence, tokens: int) -> None:
        """Give a sequence what it lacks to hold `tokens` tokens; full blocks that have a key can be hit from now on."""
        before = len(sequence.held_keys)
        missing = self.missing(sequence, tokens)
        self.take(missing)
        sequence.blocks += missing
        if self._prefix is not None and sequence.keys and before < len(sequence.keys):
            fresh = sequence.keys[before : tokens // self.block_tokens]
            sequence.held_keys.extend(self._prefix.add(fresh))

    def take(self, blocks: int) -> None:
        """Give out blocks without a key, such as those that completions grow into."""
        self.held += blocks
        assert self.held <= self.capacity
        if self._prefix is not None and blocks:
            self._prefix.take(blocks)

    def checkpoint(self, sequence: Sequence, tokens: int) -> None:
        """A step has computed the first `tokens` tokens of a prompt: at the end of a block the state is kept."""
        block, rest = divmod(tokens, self.block_tokens)
        if self._prefix is not None and not rest and 0 < block <= len(sequence.keys):
            self._prefix.save(sequence.keys[block - 1])

    def settle(self, sequence: Sequence, tokens: int) -> None:
        """A sequence that has grown to `tokens` tokens leaves the decoders, whose growth was counted by `take`."""
        sequence.blocks = self._blocks(tokens)

    def release(self, sequence: Sequence) -> None:
        """Give back everything that a sequence holds."""
        named = sequence.held_keys
        unnamed = sequence.blocks - len(named)
        self.held -= self._prefix.release(named, unnamed) if self._prefix is not None else unnamed
        sequence.blocks = 0
        named.clear()
        assert self.held >= 0

    def _look(self, sequence: Sequence) -> "_Found":
        """What is cached of a waiting sequence; asked at every step for the one that waits first, so remembered."""
        prefix = self._prefix
        if prefix is None or not sequence.keys:
            return _NOTHING
        if self._found.sequence is not sequence or self._found.version != prefix.version:
            blocks = prefix.match(sequence.keys, (sequence.known_tokens - 1) // self.block_tokens)
            idle = prefix.idle(sequence.keys[:blocks])
            self._found = _Found(sequence, prefix.version, blocks, idle)
        return self._found

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self.block_tokens) + self._state_blocks
