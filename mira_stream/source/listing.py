"""When to list everything and when only what is newer: a full listing is the truth, start-after a fast path."""

from collections.abc import Iterable, Iterator

from mira_stream.core.sight import StoredObject

PREFIXES_MAX = 256


class ListingPlan:
    """Decides what a pass over the source asks for.

    Lexical start-after finds the objects of a source whose names grow (dates, numbers); it misses late and
    out-of-order ones, and says nothing where a store lists unsorted. So it is used between full listings only, and
    before the first one of a source that was listed in an earlier life, which can take minutes; per first part of the
    key, and never again once a listing came unsorted.
    """

    def __init__(self, full_list_seconds: float, *, is_sorted: bool = True) -> None:
        self._full_list_seconds = full_list_seconds
        self._full_at: float | None = None
        self._newest: dict[str, str] = {}
        self._last = ""
        self._has_resumed = False
        self.is_sorted = is_sorted

    @property
    def is_first(self) -> bool:
        """Whether nothing was listed to its end yet."""
        return self._full_at is None

    def resume(self, keys: Iterable[str]) -> None:
        """The newest keys of an earlier life; what is behind them comes before the first full listing."""
        if self.is_sorted:
            for key in keys:
                self._remember(key)
            self._has_resumed = bool(self._newest)

    def is_full(self, now: float) -> bool:
        """Whether the pass that begins at `now` lists everything."""
        if self._full_at is None or not self.is_sorted:
            return True
        # A clock that went back must not put the truth off.
        return not 0 <= now - self._full_at < self._full_list_seconds

    def requests(self, *, full: bool) -> Iterator[tuple[str, str | None]]:
        """`(prefix, after)` of each listing of a pass; only a full one overlaps with others in new keys."""
        if not full or self._has_resumed:
            yield from self._behind_the_newest()
        if full:
            yield "", None

    def _behind_the_newest(self) -> Iterator[tuple[str, str | None]]:
        newest = dict(self._newest)
        overall = max(newest.values(), default=None)
        yield "", overall
        for prefix, key in newest.items():
            if prefix and key != overall:
                yield prefix, key

    def begin(self) -> None:
        """A listing begins: order is judged anew."""
        self._last = ""

    def saw(self, entry: StoredObject) -> None:
        """An entry of a listing, in the order in which it came."""
        if entry.key <= self._last:
            self.is_sorted = False
        self._last = entry.key
        self._remember(entry.key)

    def done(self, now: float, *, full: bool) -> None:
        """The pass that began at `now` came to its end."""
        if full:
            self._full_at = now
            self._has_resumed = False

    def _remember(self, key: str) -> None:
        prefix = key.partition("/")[0] if "/" in key else ""
        known = self._newest.get(prefix)
        if known is None and len(self._newest) >= PREFIXES_MAX:
            prefix = ""
            known = self._newest.get("")
        if known is None or key > known:
            self._newest[prefix] = key
