"""The tunables of the ledger."""

from typing import Annotated

import msgspec


class LedgerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[ledger]` of the configuration."""

    path: Annotated[
        str,
        msgspec.Meta(
            min_length=1,
            description="File of the ledger on a local disk, relative to the working directory; "
            "its folder, made if absent, holds the write-ahead log and the lock too.",
        ),
    ] = "mira-stream-ledger/ledger.sqlite3"
    cache_bytes: Annotated[
        int,
        msgspec.Meta(
            ge=1 << 20,
            description="Most memory for pages of the ledger, in bytes, for the writer and for look-ups each; it fills "
            "as the ledger grows. More is hardly quicker: the system keeps the file's pages too.",
        ),
    ] = 4 << 20
