"""The failpoint of the environment: what it takes, and what it refuses."""

import os
import signal

import pytest

from mira_stream.core.errors import Refusal
from mira_stream.core.failpoint import inert
from mira_stream.daemon.lake import failpoint_from_environment

NAME = "MIRA_STREAM_FAILPOINT"


def test_without_one_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in production."""
    monkeypatch.delenv(NAME, raising=False)
    assert failpoint_from_environment() is inert


@pytest.mark.parametrize(
    "wanted", ["seal", "seal.during", "seal.before@0", "seal.before@x", "seal.before:go"]
)
def test_what_is_no_failpoint_is_refused(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    """A test that misspells it must not run to its end and pass."""
    monkeypatch.setenv(NAME, wanted)
    with pytest.raises(Refusal, match="is no failpoint"):
        failpoint_from_environment()


def test_at_the_second_time_it_stops_until_it_is_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its own name alone, once: SIGSTOP, and after SIGCONT it goes on."""
    monkeypatch.setenv(NAME, "seal.before@2:stop")
    child = os.fork()
    if child == 0:
        point = failpoint_from_environment()
        for name in ("seal.after", "seal.before", "seal.after", "seal.before", "seal.before"):
            point(name)
        os._exit(7)
    assert os.WIFSTOPPED(os.waitpid(child, os.WUNTRACED)[1])
    os.kill(child, signal.SIGCONT)
    assert os.waitstatus_to_exitcode(os.waitpid(child, os.WUNTRACED)[1]) == 7
