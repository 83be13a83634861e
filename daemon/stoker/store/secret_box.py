"""The key of this state, and what is encrypted with it.

Owns the file of the key, which no backup and no journal contains, and the associated data that ties a value to its job
and its name: a row that is moved to another job cannot be opened. The cipher is loaded with the first secret.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import shlex
import stat
from pathlib import Path

from stoker.core.errors import StateRefused
from stoker.core.job.secret_values import SecretValue
from stoker.files import open_regular, replace_file

CREDENTIAL = "stoker-secrets-key"  # systemd.exec(5), LoadCredential=
KEY_FILE = "secrets.key"
KEY_BYTES = 32
MOST_KEY_BYTES = 4_096
NONCE_BYTES = 12
OPEN_TO_OTHERS = 0o077


class SecretUnreadable(Exception):
    """A value was encrypted with another key, for another job or name, or it is damaged."""


class SecretBox:
    """Encrypts values, and tells them apart without showing them. `key`: any bytes, of KEY_BYTES at least."""

    def __init__(self, key: bytes) -> None:
        self._cipher_key = _derived(key, b"values")
        self._digest_key = _derived(key, b"digests")

    def seal(self, job_id: int, name: str, value: bytes) -> bytes:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - few daemons have secrets

        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + AESGCM(self._cipher_key).encrypt(nonce, value, _belongs_to(job_id, name))

    def unseal(self, job_id: int, name: str, sealed: bytes) -> bytes:
        """Raises SecretUnreadable."""
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - as above
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

        nonce, encrypted = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
        try:
            return AESGCM(self._cipher_key).decrypt(nonce, encrypted, _belongs_to(job_id, name))
        except (InvalidTag, ValueError):  # ValueError: too short to be one
            raise SecretUnreadable(name) from None

    def digest(self, name: str, value: SecretValue) -> str:
        """Another value has another digest. To try values against it needs the key."""
        return hmac.new(self._digest_key, b"%b\0%b" % (name.encode(), value.data), hashlib.sha256).hexdigest()


def _derived(key: bytes, purpose: bytes) -> bytes:
    return hmac.new(key, b"stoker secrets: " + purpose, hashlib.sha256).digest()


def _belongs_to(job_id: int, name: str) -> bytes:
    return f"job {job_id} secret {name}".encode()


def open_box(root: Path, credentials: str | None) -> SecretBox:
    """The box of a state directory: with the key that the service manager gives, else with the one in its file.

    The file is made by the first start. Raises StateRefused if a key cannot be used, and OSError.
    """
    if credentials is not None and os.path.lexists(given := Path(credentials) / CREDENTIAL):
        return SecretBox(_read(given))
    own = root / KEY_FILE
    if not os.path.lexists(own):
        replace_file(own, secrets.token_bytes(KEY_BYTES))
    return SecretBox(_read(own, private=True))


def box_of_file(root: Path) -> SecretBox | None:
    """The box with the key in the file of a state directory, if there is one. Raises StateRefused as `open_box`."""
    own = root / KEY_FILE
    return SecretBox(_read(own, private=True)) if os.path.lexists(own) else None


def _read(path: Path, *, private: bool = False) -> bytes:
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            mode, key = stat.S_IMODE(os.fstat(file.fileno()).st_mode), file.read(MOST_KEY_BYTES + 1)
    except OSError as error:
        raise StateRefused(f"the key of the secrets, {path}: {error.strerror}", hint="put it back") from error
    if private and mode & OPEN_TO_OTHERS:
        raise StateRefused(
            f"the key of the secrets, {path}, is open to others (mode {mode:o})",
            hint=f"chmod 600 {shlex.quote(str(path))}",
        )
    if not KEY_BYTES <= len(key) <= MOST_KEY_BYTES:
        size = f"more than {MOST_KEY_BYTES}" if len(key) > MOST_KEY_BYTES else str(len(key))
        raise StateRefused(
            f"the key of the secrets, {path}, has {size} bytes; it must have {KEY_BYTES} to {MOST_KEY_BYTES}",
            hint=f"head -c {KEY_BYTES} /dev/urandom makes one; jobs with secrets of another key are held",
        )
    return key
