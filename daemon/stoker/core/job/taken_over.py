"""The end of an earlier job that a step takes over instead of running (`--reuse`), and the files that it worked with.

Both are part of the job that takes it over, so that a purge of the earlier one takes nothing away from it.
"""

from __future__ import annotations

from msgspec import Struct, field


class FileHashes(Struct, frozen=True, omit_defaults=True):
    """The files of a step: its `sources` as they were when it started, what it `produces` as that was at its end.

    By path, the hash of the content. `unknown`: why the hashes are not known; then the step is not reused.
    """

    sources: dict[str, str] = field(default_factory=dict)
    produces: dict[str, str] = field(default_factory=dict)
    unknown: str | None = None


class TakenOver(Struct, frozen=True, omit_defaults=True):
    """The step whose end is taken over. `output`: its outputs as JSON."""

    workflow: int
    step: str
    job: int
    output: str | None = None
    files: FileHashes | None = None

    @property
    def place(self) -> str:
        """`12/compile`."""
        return f"{self.workflow}/{self.step}"
