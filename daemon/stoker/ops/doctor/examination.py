"""The types of the doctor: a check, the state that it examines, and its findings.

An examination opens a state directory as it is: beside a running daemon, or with daemons kept out. A file that cannot
be opened is a finding of one check, and checks that need it are not made. Invariant: it changes no file.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import NamedTuple

from stoker import config
from stoker.core.errors import AlreadyRunning, ConfigInvalid, StateRefused, StokerError
from stoker.store.database import UNREADABLE, examine, open_unchanged, reading
from stoker.store.directory import Aside, StateDirectory
from stoker.store.migrate import schema_of, shipped_migrations

REPAIR = "stop stokerd, then: stoker doctor --repair"  # the remedy of findings that ops/doctor/repairs.py can repair
UNIT_PLACES = ("/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system")

Progress = Callable[[str, int, int], None]
"""The check that is made, and how much of all of it is done (0 of 0: not known)."""


class Gravity(StrEnum):
    """`error`: data is lost, or the daemon refuses the state. `warning`: that may happen. `note`: information."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


E, W, N = Gravity  # in the tables of checks


class Needs(IntEnum):
    """The facts that a check reads; each kind includes those before it."""

    FILES = 0
    DATABASE = 1  # of any schema
    ROWS = 2  # of the current schema


class Host(NamedTuple):
    """Where settings, socket and units are searched. `probe_ms`: how long to wait for jobs of a probe; None: no probe
    is made.
    """

    environ: Mapping[str, str]
    config: Path | None
    socket: Path
    units: Sequence[str] = UNIT_PLACES
    probe_ms: int | None = None


class Symptom(NamedTuple):
    """One sentence that names the row or file. `remedy` and `severity`, if given, replace those of the check."""

    message: str
    remedy: str | None = None
    severity: Gravity | None = None


class Examination:
    """The state that is examined. `refused`: why its database could not be opened, if that is so."""

    def __init__(self, directory: StateDirectory, host: Host, progress: Progress) -> None:
        self.directory = directory
        self.host = host
        self.progress = progress
        self.daemon: AlreadyRunning | None = None
        self.aside: Aside | None = None
        self.refused: StokerError | None = None
        self.schema = 0
        self.opened: sqlite3.Connection | None = None
        self.settings = config.Config()
        with suppress(ConfigInvalid):  # a check of its own reports the mistakes
            self.settings = config.load(host.config, host.environ)

    @property
    def connection(self) -> sqlite3.Connection:
        assert self.opened is not None, "only a check that needs the database may ask for it"
        return self.opened

    def obstacle(self, needs: Needs, *, still: bool) -> str | None:
        """Why a check cannot be made, if it cannot."""
        if still and self.daemon is not None:
            return "a daemon runs"
        if needs >= Needs.DATABASE and self.opened is None:
            return "the database cannot be read" if self.refused else "there is no database yet"
        newest = shipped_migrations()[-1].number
        if needs >= Needs.ROWS and self.schema != newest:
            return f"the database has schema {self.schema}, this program knows {newest}"
        return None


class Check(NamedTuple):
    """One promise about a state or its host. `find` gives a sentence, or a Symptom, for each breach of it.

    `still`: it can only be asked while no daemon runs.
    """

    group: str
    name: str
    meaning: str
    severity: Gravity
    remedy: str
    find: Callable[[Examination], Iterator[Symptom | str]]
    needs: Needs = Needs.ROWS
    still: bool = False


@contextmanager
def examining(
    directory: StateDirectory, host: Host, progress: Progress, *, locked: bool = False
) -> Iterator[Examination]:
    """Open a state as it is. `locked`: the caller has its lock. Raises StateRefused if its directory cannot be read."""
    _check_reach(directory)
    examination = Examination(directory, host, progress)
    with ExitStack() as stack:
        if not locked:
            _keep_daemons_out(examination, stack)
        _open(examination, stack)
        yield examination


def _check_reach(directory: StateDirectory) -> None:
    """To a user who may not list it each file would look lost, and the findings would ask for a restore."""
    try:
        os.scandir(directory.root).close()
    except (FileNotFoundError, NotADirectoryError):
        raise StateRefused(f"{directory.root} is not a directory", hint="name the state with --state-dir") from None
    except OSError as error:
        directory.check(reading=True)
        raise StateRefused(f"state directory {directory.root}: {error.strerror}") from error


def _keep_daemons_out(examination: Examination, stack: ExitStack) -> None:
    """Take the lock. A directory without a lock file was never used by a daemon, or was put together by hand."""
    try:
        examination.directory.share()
        stack.callback(examination.directory.unlock)
    except AlreadyRunning as error:
        examination.daemon = error
    except StateRefused:
        if os.path.lexists(examination.directory.root / "lock"):
            raise


def _open(examination: Examination, stack: ExitStack) -> None:
    directory = examination.directory
    try:
        if not examine(directory.database, directory.aside):
            return
        opened = reading if examination.daemon else open_unchanged
        connection = stack.enter_context(opened(directory.database))
        examination.schema = schema_of(connection)
        examination.opened = connection
    except UNREADABLE as error:
        examination.refused = StateRefused(f"{directory.database}: {error}")
    except OSError as error:
        examination.refused = StateRefused(f"{directory.database}: {error.strerror}")
    except StokerError as error:
        examination.refused = error
