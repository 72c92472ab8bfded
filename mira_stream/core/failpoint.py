"""Named points where a test may stop the world; inert in production.

A part takes a `Failpoint` and calls it with a name such as `"seal.before"`. The default does nothing; tests pass one
that raises, and `MIRA_STREAM_FAILPOINT` (read by the composition root alone) passes one that kills the process.
"""

from collections.abc import Callable

Failpoint = Callable[[str], None]

FAILPOINTS: tuple[str, ...] = tuple(
    f"{step}.{side}"
    for step in ("receive", "seal", "publish", "confirm", "advance")
    for side in ("before", "after")
)


def inert(name: str) -> None:
    """The failpoint of production: does nothing."""
    assert name in FAILPOINTS, f"unknown failpoint {name}"
