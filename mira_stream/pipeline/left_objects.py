"""Objects that are left for later: those that cannot be read while others can, and those that went half read."""

import msgspec
import structlog

from mira_stream.control.setbacks import Setbacks
from mira_stream.core.record import ObjectVersion
from mira_stream.core.sight import FileSight
from mira_stream.pipeline.object_reading import Trial
from mira_stream.ports import Clock, Ledger
from mira_stream.telemetry import registry as metrics
from mira_stream.telemetry.meters import Meters

_log = structlog.get_logger(__name__)
_TRIES_MAX = 5


class ReadSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How often to list, how many objects of one pool to read at once, and whether to stop when all is read.

    An object that is gone before its end was read is waited for so long as `vanished_seconds` say.
    """

    list_seconds: float
    open_objects_max: int
    once: bool
    vanished_seconds: float = 0.0


class LeftObjects:
    """Which they are, and when each is tried again. They hold no places meanwhile."""

    def __init__(self, ledger: Ledger, *, settings: ReadSettings, clock: Clock, meters: Meters) -> None:
        self.settings = settings
        self._ledger = ledger
        self._clock = clock
        self._meters = meters
        self._setbacks = Setbacks()
        self._vanished: dict[ObjectVersion, float] = {}
        meters.refresh_with(self._refresh)

    def __len__(self) -> int:
        """How many could not be read."""
        return len(self._setbacks)

    def resting(self) -> frozenset[str]:
        """The uris that are not to be read yet."""
        return self._setbacks.resting(self._clock())

    def trial(self, version: ObjectVersion) -> Trial:
        """Of one that was put off a single try tells enough; one that has been gone for long is closed."""
        since = self._vanished.get(version)
        waited = since is not None and self._clock() - since >= self.settings.vanished_seconds
        return Trial(
            tries_max=1 if version.uri in self._setbacks else _TRIES_MAX,
            close_if_gone=self.settings.once or waited,
        )

    async def put_off(self, version: ObjectVersion, problem: str) -> None:
        """It cannot be read: until a listing shows it after a wait, which grows from time to time."""
        await self._ledger.put_off(version)
        is_news = version.uri not in self._setbacks
        seconds = self._setbacks.put_off(version.uri, self._clock())
        if is_news:
            _log.error(
                "an object cannot be read, though its source answers; left for later, with growing waits",
                object=version.uri,
                error=problem,
                seconds=seconds,
            )

    async def wait_for(self, version: ObjectVersion) -> None:
        """It went half read: it is read on if it comes back, and looked for after the next listing if not."""
        if version not in self._vanished:
            self._vanished[version] = self._clock()
            _log.warning("object was deleted while it was read; waited for", object=version.uri)
        await self._ledger.postpone(version, FileSight(quiet=False))

    def is_well(self, version: ObjectVersion) -> None:
        """It was read, to its end or as far as it goes by now."""
        self._vanished.pop(version, None)
        if self._setbacks.forget(version.uri):
            _log.info("object can be read again", object=version.uri)

    def _refresh(self) -> None:
        self._meters.set(metrics.SOURCE_OBJECTS_PUT_OFF, len(self._setbacks))
