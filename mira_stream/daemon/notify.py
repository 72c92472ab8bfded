"""systemd's notification protocol: one datagram per message to the socket that systemd names."""

import os
import socket
import time


class Notifier:
    """Tells systemd about readiness, status and life; does nothing where systemd did not start us."""

    def __init__(self, address: str | None = None) -> None:
        self._address = address if address is not None else os.environ.get("NOTIFY_SOCKET", "")

    @property
    def watchdog_seconds(self) -> float | None:
        """How often systemd wants to hear from this process, or None."""
        microseconds = os.environ.get("WATCHDOG_USEC", "")
        ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        return int(microseconds) / 1e6 if ours and microseconds.isdigit() and int(microseconds) else None

    def ready(self) -> None:
        """Start-up is over."""
        self._send("READY=1")

    def reloading(self) -> None:
        """The configuration is read again; `ready` tells the end of it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Shutdown has begun."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """One line for an operator who types `systemctl status`."""
        self._send("STATUS=" + " ".join(text.split()))

    def _send(self, message: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.connect(address)
                sender.send(message.encode())
        except OSError:
            return  # a full or vanished socket must never stop the work; the watchdog will tell
