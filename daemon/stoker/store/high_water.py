"""The high-water mark: the highest ids and epoch that this state may have given out, in a file beside the database.

A backup lacks the ids that were given out after it, and an answered id must never name another job. So ids are granted
in blocks: the mark is raised, durably, before a commit uses an id above it. After a restore ids begin above the mark.
Invariant: no id and no epoch on disk, or in an answer, is above the mark.
"""

from __future__ import annotations

from operator import ge
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import astuple

from stoker.core.errors import StateRefused
from stoker.files import read_regular, replace_file

BLOCK = 10_000  # ids: to raise the mark costs about as much as a commit


class Mark(Struct, frozen=True):
    """The last epoch, and the last id of each kind that may be in use."""

    epoch: int = 0
    jobs: int = 0
    workflows: int = 0
    checkpoints: int = 0

    def covers(self, other: Mark) -> bool:
        return all(map(ge, astuple(self), astuple(other)))

    def joined(self, other: Mark) -> Mark:
        """The higher value of each."""
        return Mark(*map(max, astuple(self), astuple(other)))

    def beyond(self, other: Mark) -> Mark:
        """A mark that covers `other`, with a block of room for each kind of id that is above this one."""
        epoch = max(self.epoch, other.epoch)
        ids = [
            ours if ours >= theirs else theirs + BLOCK
            for ours, theirs in zip(astuple(self)[1:], astuple(other)[1:], strict=True)
        ]
        return Mark(epoch, *ids)


ID_TABLES = Mark.__struct_fields__[1:]  # the tables that never give an id twice


class HighWater:
    """The file. `cover` is called before each commit, and writes only now and then."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.mark = Mark()

    def read(self) -> Mark:
        """The mark in the file; zeroes if there is none. Raises StateRefused if it cannot be read."""
        try:
            self.mark = msgspec.json.decode(read_regular(self._path), type=Mark)
        except FileNotFoundError:
            self.mark = Mark()
        except (OSError, msgspec.DecodeError) as error:
            hint = f"look at it, then move it away: {self._path}"
            raise StateRefused(f"{self._path}: {error}", hint=hint) from error
        return self.mark

    def cover(self, used: Mark) -> None:
        """Raise the mark durably if `used` is above it. Raises OSError."""
        if not self.mark.covers(used):
            raised = self.mark.beyond(used)
            replace_file(self._path, msgspec.json.encode(raised) + b"\n")
            self.mark = raised
