"""No core file holds the keys that are in memory."""

import subprocess
import sys

import pytest

_ASK = """
import ctypes, os, resource
from mira_stream.daemon.core_files import forbid_core_files
resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)
forbid_core_files()
print(resource.getrlimit(resource.RLIMIT_CORE)[0], ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), flush=True)
os.abort()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="dumpable is a word of Linux")
def test_a_process_that_dies_leaves_none() -> None:
    """The limit is zero and the process not dumpable, so that not even systemd-coredump is handed its memory."""
    done = subprocess.run([sys.executable, "-c", _ASK], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["0", "0"]
    assert done.returncode == -6
