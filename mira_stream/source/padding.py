"""What may stand after the last frame or member: zero bytes, and nothing else."""

from mira_stream.core.errors import Corrupt
from mira_stream.core.outcome import Reason


def refuse_unless_zeros(data: bytes | memoryview, where: str) -> None:
    """Raise Corrupt if `data`, which follows a complete `where`, is not zero padding."""
    if bytes(data).strip(b"\0"):
        raise Corrupt(Reason.CORRUPT, f"bytes after the end of the last {where} that are no {where}")
