"""Text of any bytes: file names and arguments on Linux are bytes, and JSON holds only Unicode.

Owns the form in which bytes that are not UTF-8 are sent, stored and shown: `{"base64": "…"}` in place of a string.
NUL is refused, because arguments, variables and paths cannot contain it.
"""

from __future__ import annotations

from binascii import Error, a2b_base64, b2a_base64
from functools import cached_property

from msgspec import Struct


class RawBytes(Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """Bytes in place of a string. Raises ValueError if the text is not base64, or has a NUL."""

    base64: str

    def __post_init__(self) -> None:
        if b"\0" in self.data:
            raise ValueError("base64: NUL is among the bytes; no command or file name can hold one")

    @cached_property
    def data(self) -> bytes:
        try:
            return a2b_base64(self.base64, strict_mode=True)
        except (Error, ValueError):
            raise ValueError("base64: not base64 (RFC 4648, with padding)") from None

    def __len__(self) -> int:
        """In bytes."""
        return len(self.data)

    @classmethod
    def of(cls, data: bytes) -> RawBytes:
        return cls(b2a_base64(data, newline=False).decode())


AnyText = str | RawBytes


def encoded(text: AnyText) -> bytes:
    return text.data if isinstance(text, RawBytes) else text.encode()


def native(text: AnyText) -> str:
    """As Python's `os` functions take it; not to be stored or sent."""
    return text.data.decode("utf-8", "surrogateescape") if isinstance(text, RawBytes) else text


def sendable(text: str) -> AnyText:
    """Text of the `os` functions in the form in which it is stored and sent."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return RawBytes.of(text.encode("utf-8", "surrogateescape"))
    return text


def printable(text: str) -> str:
    """Native text for a message: bytes that are not UTF-8 become `\\xff`."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def storable(text: str) -> str:
    """Text from a user's code, as SQLite and JSON can hold it: a lone surrogate becomes an escape."""
    return text.encode("utf-8", "backslashreplace").decode()
