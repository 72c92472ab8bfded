"""What a replica can hold: from the configuration, with the model card's floor as its default.

Admission asks `limit_tokens` and tells every look at the engine; a capacity that learns needs nothing more.
"""

from mira_stream.control.settings import AdmissionSettings
from mira_stream.core.usage import Load


class Capacity:
    """The KV tokens of one replica, and the last look at its engine."""

    def __init__(self, settings: AdmissionSettings) -> None:
        self._settings = settings
        self.load: Load | None = None

    @property
    def limit_tokens(self) -> int:
        """Tokens that our permits may hold there."""
        return self._settings.kv_tokens

    def observe(self, load: Load) -> bool:
        """Take in a look at the engine; True if the same process has generated tokens since the last one."""
        before, self.load = self.load, load
        if before is None or before.process_start_seconds != load.process_start_seconds:
            return False
        if before.generation_tokens is None or load.generation_tokens is None:
            return False
        return load.generation_tokens > before.generation_tokens
