"""systemd's protocol over a real datagram socket, and the heartbeat that feeds the watchdog."""

import asyncio
import os
import socket
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from mira_stream.daemon.heartbeat import beat
from mira_stream.daemon.notify import Notifier
from mira_stream.telemetry import registry as metrics
from mira_stream.telemetry.meters import Meters


class Systemd:
    """The other end of the socket."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.setblocking(False)

    def heard(self) -> list[str]:
        """All messages since the last look."""
        messages = []
        while True:
            try:
                messages.append(self._socket.recv(65536).decode())
            except BlockingIOError:
                return messages

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[tuple[Systemd, str]]:
    """A socket in the file system, and its address."""
    address = str(tmp_path / "notify")
    other_end = Systemd(address)
    yield other_end, address
    other_end.close()


def test_systemd_hears_what_happens(systemd: tuple[Systemd, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One datagram each; the status is one line whatever is in it; the address comes from the environment."""
    other_end, address = systemd
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notifier = Notifier()
    notifier.ready()
    notifier.status("running:\n 3 read,\t2 scored")
    notifier.alive()
    notifier.stopping()
    assert other_end.heard() == ["READY=1", "STATUS=running: 3 read, 2 scored", "WATCHDOG=1", "STOPPING=1"]


def test_an_abstract_socket_is_understood() -> None:
    """systemd may use a name that begins with `@`."""
    name = f"mira-stream-test-{os.getpid()}"
    other_end = Systemd(f"\0{name}")
    Notifier(f"@{name}").ready()
    assert other_end.heard() == ["READY=1"]
    other_end.close()


def test_without_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No socket, or one that is gone or full, never stops the work."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    Notifier().ready()
    Notifier(str(tmp_path / "gone")).alive()


def test_a_full_socket_blocks_nobody(systemd: tuple[Systemd, str]) -> None:
    """systemd does not read: messages are dropped, the loop goes on."""
    other_end, address = systemd
    notifier = Notifier(address)
    for _ in range(2000):
        notifier.alive()
    assert 0 < len(other_end.heard()) < 2000


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("60000000", None, 60.0),
        ("60000000", "ours", 60.0),
        ("60000000", "1", None),
        ("", None, None),
        ("0", None, None),
        ("soon", None, None),
    ],
)
def test_the_watchdog_is_ours_or_it_is_not(
    monkeypatch: pytest.MonkeyPatch, usec: str, pid: str | None, seconds: float | None
) -> None:
    """Told in microseconds, and for one process."""
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    if pid is not None:
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "ours" else pid)
    assert Notifier("x").watchdog_seconds == seconds


def test_the_loop_itself_feeds_the_watchdog(
    systemd: tuple[Systemd, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three times as often as asked for, with the status at the first beat; how late a beat came is a metric."""
    other_end, address = systemd
    monkeypatch.setenv("WATCHDOG_USEC", "3000")
    notifier, meters = Notifier(address), Meters()
    ticks = count(0.0, 0.5)  # each look at the clock is half a second later than the last
    beats = asyncio.Event()

    def status() -> str:
        beats.set()
        return "fine"

    async def story() -> None:
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            beating = group.create_task(beat(notifier, meters, status, clock=lambda: next(ticks)))
            await beats.wait()
            beating.cancel()

    asyncio.run(story())
    assert other_end.heard()[:2] == ["WATCHDOG=1", "STATUS=fine"]
    assert meters.value(metrics.LOOP_LAG_SECONDS) == pytest.approx(0.499)
