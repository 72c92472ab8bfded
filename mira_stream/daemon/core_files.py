"""Memory that holds keys stays in memory: no core files, and no look into the process for others of the same user."""

import ctypes
import resource
import sys

_PR_SET_DUMPABLE = 4


def forbid_core_files() -> None:
    """No core file for this process and those that it starts; on Linux nobody but root may trace it either.

    The kernel hands a core to a program such as systemd-coredump whatever the limit says, and that one keeps the
    environment: therefore both.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    if sys.platform == "linux":
        prctl = getattr(ctypes.CDLL(None), "prctl", None)
        if prctl is not None:
            prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
