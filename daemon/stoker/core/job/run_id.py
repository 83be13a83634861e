"""The name of an attempt: of its files, in its variables, and in the messages of launchers.

Owns the only form of it, which is read as strictly as it is written.
"""

from __future__ import annotations

from msgspec import Struct


class RunId(Struct, frozen=True):
    """The name of an attempt everywhere: `<job>.<attempt>.<16 random hex digits>`."""

    job_id: int
    ordinal: int
    nonce: str

    @classmethod
    def parse(cls, text: str) -> RunId:
        """Raises ValueError for any other text."""
        job_id, ordinal, nonce = text.split(".")
        return cls(int(job_id), int(ordinal), nonce)

    def __str__(self) -> str:
        return f"{self.job_id}.{self.ordinal}.{self.nonce}"
