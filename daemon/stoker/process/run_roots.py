"""The directories that hold the files of runs: the state directory, and one of each user whose jobs run as that user.

Owns the names: the uid is a part of a run id and of a launcher's id, so the files of an attempt are found whatever the
settings say by now. Below each of them are `launchers`, `outcomes`, `logs` and `work`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from stoker.core.job.run_id import RunId
from stoker.process.attempt_logs import log_of, log_path

LAUNCHER = re.compile(r"\d{1,19}-[0-9a-f]{8}-(\d{1,10})\Z")


def uid_of(launcher: str) -> int | None:
    """The user as whom a launcher runs, by its id `<epoch>-<8 hex>-<uid>`; None for the daemon's user."""
    match = LAUNCHER.match(launcher)
    return None if match is None else int(match[1])


def belongs_to(run_id: str, uid: int | None) -> bool:
    """Whether a run id, which another user may have made up, is that of a run of this uid."""
    try:
        return RunId.parse(run_id).uid == uid
    except ValueError:
        return False


class RunRoots:
    """`users`: the directory above those of the users; `submitter`: whether new jobs run as who submitted them."""

    def __init__(self, state_dir: Path, users: Path | None = None, *, submitter: bool = False) -> None:
        self.state_dir = state_dir
        self.users = users
        self.submitter = submitter
        self._own_uid = os.geteuid()

    def __iter__(self) -> Iterator[Path]:
        """The state directory, and those of all users that have one."""
        yield self.state_dir
        if self.users is not None and self.users.is_dir():
            yield from sorted(path for path in self.users.iterdir() if path.name.isdecimal())

    def runs_as(self, owner_uid: int) -> int | None:
        """The uid as which a new job of this owner runs; None for that of the daemon."""
        return owner_uid if self.submitter and owner_uid != self._own_uid else None

    def of_user(self, uid: int | None) -> Path:
        return self.state_dir if uid is None or self.users is None else self.users / str(uid)

    def of_launcher(self, launcher: str) -> Path:
        return self.of_user(uid_of(launcher))

    def of_run(self, run_id: str) -> Path:
        return self.state_dir if self.users is None else self.of_user(RunId.parse(run_id).uid)

    def log_of(self, run_id: str) -> Path:
        return log_of(self.of_run(run_id), run_id)

    def log_path(self, owner_uid: int, job_id: int, ordinal: int) -> Path:
        """The log of an attempt of which only the number is known: where it is, or where it would be."""
        own = log_path(self.state_dir, job_id, ordinal)
        if self.users is None or owner_uid == self._own_uid or os.path.lexists(own):
            return own
        theirs = log_path(self.of_user(owner_uid), job_id, ordinal)
        return theirs if self.submitter or os.path.lexists(theirs) else own
