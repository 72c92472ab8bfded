"""What threads have freed does not stay with the process."""

import ctypes
import subprocess
import sys

import pytest

# Eight threads that hold at once what a segment takes, in pieces of 300 KB, each with a small piece behind it that
# stays: no piece is at the end of anything. Prints by how many MB the process is larger when the large ones are freed.
_ASK = """
import ctypes, sys, threading
from mira_stream.daemon.memory import give_memory_back

def resident():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

if sys.argv[1] == "bounded":
    give_memory_back()
before = resident()
libc, all_hold = ctypes.CDLL(None), threading.Barrier(8)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]

def work():
    for _ in range(3):
        large = []
        for _ in range(20):
            large.append(libc.malloc(300_000))
            ctypes.memset(large[-1], 1, 300_000)
            libc.malloc(100)
        all_hold.wait()
        for one in large:
            libc.free(one)

threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(resident() - before)
"""


def _kept_mb(habit: str) -> float:
    done = subprocess.run([sys.executable, "-c", _ASK, habit], capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"),
    reason="NOT RUN: only glibc keeps memory for each thread",
)
def test_what_threads_have_freed_goes_back_to_the_system() -> None:
    """Of 48 MB that eight threads held nearly nothing is left; by the allocator's own habit most of it would be."""
    assert _kept_mb("bounded") < 8
    assert _kept_mb("unbounded") > 24
