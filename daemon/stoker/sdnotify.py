"""The protocols between a service and its manager, such as systemd: sd_notify(3) and sd_listen_fds(3).

Owns both protocols and the list of variables that must not reach workers: a worker with them could send messages, or
answer a watchdog, in the daemon's name. It never waits long for a manager that does not read.

Invariants: a message that cannot be sent is dropped and the method returns False; a text cannot contain a second
assignment; variables that the daemon inherited as a worker of another Stoker do not reach its own workers.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Mapping, MutableMapping
from typing import Final, NamedTuple

from stoker.core.errors import ConfigInvalid

FIRST_FD: Final = 3
# READY and STOPPING are sent once: they may wait this long for a manager whose queue is full.
PATIENCE_S: Final = 1.0

PRIVATE_PREFIXES: Final = ("LISTEN_", "WATCHDOG_", "STOKER_")
PRIVATE_NAMES: Final = frozenset({"NOTIFY_SOCKET", "TRACEPARENT", "TRACESTATE", "BAGGAGE"})


def is_private(name: str) -> bool:
    """Whether a variable is meant for this process alone."""
    return name in PRIVATE_NAMES or name.startswith(PRIVATE_PREFIXES)


def strip(environ: MutableMapping[str, str]) -> None:
    """Remove the private variables from `environ`; call it once they have been read."""
    for name in [name for name in environ if is_private(name)]:
        del environ[name]


class Notifier:
    """Sends messages to the service manager, if there is one."""

    def __init__(self, address: str | None = None, watchdog_ms: int | None = None) -> None:
        """`address` as in NOTIFY_SOCKET; `watchdog_ms` is the longest time between two signs of life."""
        self.watchdog_ms = watchdog_ms
        self._address = _socket_address(address)
        self._socket = None if self._address is None else _datagram_socket()

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Notifier:
        """From NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID."""
        return cls(environ.get("NOTIFY_SOCKET"), _watchdog_ms(environ))

    @property
    def listened_to(self) -> bool:
        return self._socket is not None

    def ready(self, status: str = "") -> bool:
        return self._send("READY=1", *_status(status), patience_s=PATIENCE_S)

    def stopping(self) -> bool:
        return self._send("STOPPING=1", patience_s=PATIENCE_S)

    def status(self, text: str) -> bool:
        """One line for `systemctl status`."""
        return self._send(*_status(text))

    def watchdog(self, status: str = "") -> bool:
        """A sign of life, due every `watchdog_ms` at the latest; systemd advises twice as often."""
        return self._send("WATCHDOG=1", *_status(status))

    def extend_timeout(self, more_ms: int) -> bool:
        """Ask for `more_ms` from now on for starting or stopping."""
        return self._send(f"EXTEND_TIMEOUT_USEC={more_ms * 1_000}")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *assignments: str, patience_s: float = 0.0) -> bool:
        if self._socket is None or self._address is None:
            return False
        self._socket.settimeout(patience_s)
        try:
            self._socket.sendto("\n".join(assignments).encode("utf-8", "replace"), self._address)
        except OSError:
            return False
        return True


class Listener(NamedTuple):
    """A listening socket that the service manager opened for us."""

    fd: int
    name: str


def listeners(environ: Mapping[str, str], pid: int) -> tuple[Listener, ...]:
    """The sockets of LISTEN_FDS, from now on closed on exec; empty if LISTEN_PID names another process.

    Raises ConfigInvalid for a wrong number, and for a descriptor that is not a listening stream socket.
    """
    if environ.get("LISTEN_PID") != str(pid):
        return ()
    count = _number("LISTEN_FDS", environ)
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    names += ["unknown"] * (count - len(names))
    fds = range(FIRST_FD, FIRST_FD + count)
    for fd in fds:
        _require_listening(fd)
        os.set_inheritable(fd, False)  # noqa: FBT003 - positional only
    return tuple(Listener(fd, name or "unknown") for fd, name in zip(fds, names, strict=False))


def _datagram_socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)


def _socket_address(address: str | None) -> str | None:
    """The address of a path or of an abstract socket (`@`); None for other families, such as vsock."""
    if not address or address[0] not in "/@":
        return None
    return "\0" + address[1:] if address[0] == "@" else address


def _status(text: str) -> tuple[str, ...]:
    return (f"STATUS={' '.join(text.split())}",) if text else ()


def _watchdog_ms(environ: Mapping[str, str]) -> int | None:
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()) or "WATCHDOG_USEC" not in environ:
        return None
    return _number("WATCHDOG_USEC", environ) // 1_000 or None


def _number(name: str, environ: Mapping[str, str]) -> int:
    raw = environ.get(name, "")
    if not (raw.isascii() and raw.isdigit() and len(raw) < 20):  # noqa: PLR2004 - digits of 2^64
        raise _invalid(f"{name} = {raw!r}: expected a whole number")
    return int(raw)


def _require_listening(fd: int) -> None:
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise _invalid(f"LISTEN_FDS: descriptor {fd} is not a socket")
        with socket.socket(fileno=os.dup(fd)) as probe:
            if not probe.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                raise _invalid(f"LISTEN_FDS: descriptor {fd} does not listen")
    except OSError as error:
        raise _invalid(f"LISTEN_FDS: descriptor {fd}: {error.strerror}") from error


def _invalid(message: str) -> ConfigInvalid:
    return ConfigInvalid(message, hint="see the socket unit: Accept=no, ListenStream=", errors=[message])
