"""The limit of open files: as high as this process may have it, and refused where it is too low to work at all."""

import resource

from mira_stream.core.errors import Refusal

_WORKABLE = 64
"""Ledger, listener, executors and stores take about 30; the rest is for replicas and objects."""


_ENOUGH = 65_536


def raise_descriptor_limit() -> int:
    """Raise the soft limit as far as is useful; returns it. A shell's 1,024 is less than a fleet's requests in flight.

    Raises Refusal if the hard limit is too low.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if most < _WORKABLE:
        raise Refusal(
            f"this process may open {most} files at a time; it needs {_WORKABLE}, and one per request in flight",
            "raise the limit: LimitNOFILE= in the unit, `ulimit -Hn` in a shell, nofile in a container",
        )
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return max(soft, most)
