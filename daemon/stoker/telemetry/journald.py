"""Log lines as entries of the systemd journal, with the fields that `journalctl` filters by.

Owns journald's native protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/): MESSAGE is the line as it would stand on
stderr; PRIORITY, MESSAGE_ID and STOKER_… come from its fields. A line that is not a JSON object, or that is too long
for a datagram, is left to the caller. Nothing else of the daemon depends on the journal.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Mapping
from typing import Any, Final

import msgspec

SOCKET: Final = "/run/systemd/journal/socket"
IDENTIFIER: Final = b"stokerd"
_PRIORITIES: Final = {"debug": b"7", "info": b"6", "warning": b"4", "error": b"3", "critical": b"2"}  # of syslog(3)
_FIELDS: Final = ("event", "job", "attempt", "queue", "workflow", "trace_id")
_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode


def message_id(event: str) -> str:
    """The MESSAGE_ID of an event: 32 hexadecimal digits that never change."""
    return hashlib.blake2b(event.encode(), digest_size=16, person=b"stoker event").hexdigest()


def is_journal(fd: int, environ: Mapping[str, str]) -> bool:
    """Whether a descriptor is the stream that systemd connected to the journal (JOURNAL_STREAM in systemd.exec(5))."""
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class JournalSocket:
    def __init__(self, path: str = SOCKET) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def close(self) -> None:
        self._socket.close()

    def send(self, line: bytes) -> bool:
        """Send a line as an entry. Waits while journald is behind; returns False if the line has to go another way."""
        try:
            self._socket.sendto(_entry(line), self._path)
        except (OSError, msgspec.DecodeError):  # no journald, a line above the size of a datagram, text for people
            return False
        return True


def _entry(line: bytes) -> bytes:
    fields = _decode(line)
    event = str(fields.get("event", ""))
    parts = [
        _field(b"MESSAGE", line.removesuffix(b"\n")),
        _field(b"PRIORITY", _PRIORITIES.get(fields.get("level", ""), b"6")),
        _field(b"SYSLOG_IDENTIFIER", IDENTIFIER),
        _field(b"MESSAGE_ID", message_id(event).encode()),
    ]
    parts += [
        _field(f"STOKER_{name}".upper().encode(), str(fields[name]).encode()) for name in _FIELDS if name in fields
    ]
    return b"".join(parts)


def _field(name: bytes, value: bytes) -> bytes:
    """A field; a value of several lines has its length, in 64 bits of little endian, in front of it."""
    if b"\n" in value:
        return b"%b\n%b%b\n" % (name, len(value).to_bytes(8, "little"), value)
    return b"%b=%b\n" % (name, value)
