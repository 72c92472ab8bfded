"""The prefix cache: which blocks of prompts can be used again, and the order in which free blocks are given out.

Free blocks stand in line, the one that was freed longest ago first. A block whose content is known by its key stays
in the cache while it stands there, and is forgotten when it is given out. Blocks whose content nobody can ask for are
counted in runs, so a cache without keys costs next to nothing.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from itertools import takewhile


class _Run:
    """Stands in line for a number of free blocks without a key."""

    __slots__ = ()


class PrefixCache:
    """Blocks by key, how many sequences hold each, and the line of free blocks, with a key or without.

    With `checkpoints` a hit must end where a state was saved (the "align" mode of models with a recurrent state).
    """

    def __init__(self, capacity: int, *, checkpoints: bool = False) -> None:
        self.version = 0  # grows with every change of what is here and of who holds it
        self._holders: dict[Hashable, int] = {}
        self._line: OrderedDict[Hashable, int] = OrderedDict({_Run(): capacity})
        self._saved: set[Hashable] | None = set() if checkpoints else None

    def match(self, keys: tuple[Hashable, ...], most: int) -> int:
        """How many of the first `most` blocks are here, without a gap from the first one on."""
        found = sum(1 for _ in takewhile(self._holders.__contains__, keys[:most]))
        if self._saved is None:
            return found
        return next((end for end in range(found, 0, -1) if keys[end - 1] in self._saved), 0)

    def idle(self, keys: Iterable[Hashable]) -> int:
        """How many of these cached blocks nobody holds."""
        return sum(not self._holders[key] for key in keys)

    def hold(self, keys: Iterable[Hashable]) -> int:
        """Take hold of cached blocks; returns how many of them were free until now."""
        self.version += 1
        woken = 0
        for key in keys:
            holders = self._holders[key]
            if not holders:
                del self._line[key]
                woken += 1
            self._holders[key] = holders + 1
        return woken

    def take(self, blocks: int) -> None:
        """Give out that many free blocks from the head of the line; what they held is forgotten."""
        while blocks:
            first, there = self._line.popitem(last=False)
            if there > blocks:
                self._line[first] = there - blocks
                self._line.move_to_end(first, last=False)
                return
            blocks -= there
            self._forget(first)

    def add(self, keys: Iterable[Hashable]) -> list[Hashable]:
        """Name blocks just given out, held once; returns the keys that were new here."""
        new = [key for key in keys if key not in self._holders]
        self._holders.update(dict.fromkeys(new, 1))
        self.version += 1
        return new

    def save(self, key: Hashable) -> None:
        """A chunk ended with this block, so its state is kept; without `checkpoints` every block will do."""
        if self._saved is not None and key in self._holders:
            self._saved.add(key)
            self.version += 1

    def release(self, keys: list[Hashable], unnamed: int) -> int:
        """Let go of named and unnamed blocks, the last ones of the prompt first in line; returns how many are free now."""
        freed = unnamed
        self.version += 1
        if unnamed:
            self._queue(unnamed)
        for key in reversed(keys):
            holders = self._holders[key] - 1
            self._holders[key] = holders
            if not holders:
                self._line[key] = 1
                freed += 1
        return freed

    def _queue(self, blocks: int) -> None:
        """Put blocks without a key at the end of the line, into the run that stands there if there is one."""
        last = next(reversed(self._line), None)
        if isinstance(last, _Run):
            self._line[last] += blocks
        else:
            self._line[_Run()] = blocks

    def _forget(self, key: Hashable) -> None:
        if self._holders.pop(key, None) is not None:
            self.version += 1
            if self._saved is not None:
                self._saved.discard(key)
