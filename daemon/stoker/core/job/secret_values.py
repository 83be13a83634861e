"""Secrets of a job: values by name that are sent beside its spec, which has their names only.

Owns their limits, and the value that shows itself nowhere: no `repr`, message or traceback has its bytes.
"""

from __future__ import annotations

from binascii import Error, a2b_base64, b2a_base64
from typing import Annotated

from msgspec import Meta, Struct

MAX_SECRETS = 32
MAX_SECRET_BYTES = 64 * 1024

SecretName = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}\Z")]
NOT_KEPT = "schedules and hooks keep no secrets: let the command read a file that only its user can read"
NAME_RULE = "letters, digits and _, at most 128, the first no digit"


class SecretValue(Struct, frozen=True, forbid_unknown_fields=True):
    """The bytes of a secret. Raises ValueError if they are not base64, empty or too many."""

    base64: str

    def __post_init__(self) -> None:
        size = len(self.data)
        if not 1 <= size <= MAX_SECRET_BYTES:
            raise ValueError(f"base64: {size} bytes; a secret has 1 to {MAX_SECRET_BYTES}")

    @property
    def data(self) -> bytes:
        try:
            return a2b_base64(self.base64, strict_mode=True)
        except (Error, ValueError):
            raise ValueError("base64: not base64 (RFC 4648, with padding)") from None

    @classmethod
    def of(cls, data: bytes) -> SecretValue:
        return cls(b2a_base64(data, newline=False).decode())

    def __repr__(self) -> str:
        return "SecretValue(...)"


Secrets = Annotated[dict[SecretName, SecretValue], Meta(max_length=MAX_SECRETS)]
