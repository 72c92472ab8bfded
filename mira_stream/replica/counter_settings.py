"""The settings of exact counting."""

from typing import Annotated

import msgspec


class CounterSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[counter]`: the processes that count tokens exactly, one for each tokenizer that a pool names."""

    cache_bytes_max: Annotated[
        int,
        msgspec.Meta(
            ge=16 << 20,
            description="How far such a process may outgrow its size at the start before a fresh one replaces it.",
        ),
    ] = 512 << 20
    start_timeout_seconds: Annotated[
        float,
        msgspec.Meta(gt=0, description="Longest wait for such a process to load its vocabulary, in seconds."),
    ] = 60.0
