"""The token of an attempt: what proves that a request comes from inside it.

Owns making and checking. Refuses to store: a token is a MAC of the run id under a key of this instance (RFC 2104, with
SHA-256), so it needs no row. Invariant: nobody without the key can name another run; whether the run still lives is
for the caller to ask.
"""

from __future__ import annotations

import hashlib
import hmac

from stoker.core.errors import StaleAttempt


class Tokens:
    """Tokens of one instance; `key` in hex."""

    def __init__(self, key: str) -> None:
        self._key = bytes.fromhex(key)

    def of(self, run_id: str) -> str:
        """The token of a run: its id and a MAC."""
        return f"{run_id}:{hmac.digest(self._key, run_id.encode(), hashlib.sha256)[:16].hex()}"

    def run_of(self, token: str) -> str:
        """The run that a token is of. Raises StaleAttempt for one that we never made."""
        run_id = token.rpartition(":")[0]
        if not hmac.compare_digest(self.of(run_id).encode(), token.encode()):
            raise StaleAttempt("token: not a token of this instance", hint="use $STOKER_TOKEN as the job was given it")
        return run_id
