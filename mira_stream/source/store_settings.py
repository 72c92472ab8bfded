"""How to reach an object store, and who is told about names in it that are no objects."""

from collections.abc import Callable
from typing import Annotated

import msgspec

OnRefused = Callable[[str, int], None]
"""Told why (a bounded set of words) and how many names of a listing are no objects."""


class StoreSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[source.store]` and `[sink.store]`: how to reach the store; credentials come from the environment or files."""

    endpoint: Annotated[
        str | None,
        msgspec.Meta(
            description="Address of an S3-, GCS- or Azure-compatible server; default: the cloud's own."
        ),
    ] = None
    region: Annotated[
        str | None, msgspec.Meta(description="S3 region; default: from the environment, else us-east-1.")
    ] = None
    allow_http: Annotated[
        bool, msgspec.Meta(description="Whether an endpoint may be plain http://, without TLS.")
    ] = False


def ignore_refused(reason: str, names: int) -> None:
    """The default `OnRefused`: does nothing."""
