"""The name of an attempt: of its files, in its variables, and in the messages of launchers.

Owns the only form of it, which is read as strictly as it is written.
"""

from __future__ import annotations

from msgspec import Struct


class RunId(Struct, frozen=True):
    """The name of an attempt everywhere: `<job>.<attempt>.<16 random hex digits>`.

    One that runs as another user than the daemon has `.<uid>` behind that.
    """

    job_id: int
    ordinal: int
    nonce: str
    uid: int | None = None

    @classmethod
    def parse(cls, text: str) -> RunId:
        """Raises ValueError for any other text."""
        job_id, ordinal, nonce, *rest = text.split(".")
        (uid,) = rest or (None,)
        return cls(int(job_id), int(ordinal), nonce, None if uid is None else int(uid))

    def __str__(self) -> str:
        name = f"{self.job_id}.{self.ordinal}.{self.nonce}"
        return name if self.uid is None else f"{name}.{self.uid}"
