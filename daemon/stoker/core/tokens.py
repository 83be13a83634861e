"""The token of an attempt (`$STOKER_TOKEN`), which proves that a request comes from its worker.

A token is a MAC of the run id under the key of this instance (HMAC, RFC 2104, with SHA-256), so it needs no row.
Invariant: the token of another run cannot be made without the key. The caller checks whether the run is still open.
"""

from __future__ import annotations

import hashlib
import hmac

from stoker.core.errors import StaleAttempt


class Tokens:
    """`key` in hex."""

    def __init__(self, key: str) -> None:
        self._key = bytes.fromhex(key)

    def of(self, run_id: str) -> str:
        return f"{run_id}:{hmac.digest(self._key, run_id.encode(), hashlib.sha256)[:16].hex()}"

    def run_of(self, token: str) -> str:
        """The run id in a token. Raises StaleAttempt if the token is not of this instance."""
        run_id = token.rpartition(":")[0]
        if not hmac.compare_digest(self.of(run_id).encode(), token.encode()):
            raise StaleAttempt("token: not a token of this instance", hint="use $STOKER_TOKEN as the job was given it")
        return run_id
