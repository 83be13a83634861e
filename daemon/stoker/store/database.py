"""A connection to the database, and the checks of the files before SQLite may open them.

Owns the pragmas and the single hop into a connection's thread. SQLite deletes a full WAL beside a missing or empty
database, so this is refused first. Invariant: one writer per database; readers are `query_only` and never checkpoint.
"""

from __future__ import annotations

import asyncio
import shlex
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from traceback import clear_frames
from typing import Concatenate, ParamSpec, TypeVar

import aiosqlite
import msgspec

from stoker.core.errors import DiskFull, StateRefused, StorageFailed
from stoker.core.job.model import (
    ExecutionMode,
    NeedOn,
    OnOrphan,
    OutcomeKind,
    QueueClass,
    Reason,
    State,
    StopReason,
)
from stoker.core.schedule.model import Misfire, Overlap
from stoker.core.workflow.checkpoint import CheckpointKind
from stoker.core.workflow.state import Intent, Strategy, WorkflowState
from stoker.store.hop import Hop
from stoker.store.reserve import is_full

P = ParamSpec("P")
T = TypeVar("T")

APPLICATION_ID = 0x53746F6B  # "Stok": marks an SQLite file as ours (PRAGMA application_id)
HEADER = b"SQLite format 3\x00"
WAL_HEADER_BYTES = 32
JOURNAL = bytes.fromhex("d9d505f920a163d7")
UNSYNCED = bytes(8)  # in its place until the rest of the journal is on disk
JOURNAL_PAGES = slice(16, 20)  # the size of the database when the transaction began (sqlite.org/fileformat)
MOST_REWRITTEN_BYTES = 256 * 1024 * 1024  # a start may wait for it: about two seconds
REWRITE_ROOM = 3  # times the file: the WAL, a temporary copy, and something to spare
# The errors of a read of a damaged file: SQLite's message may quote bytes that are no UTF-8, which Python cannot
# decode.
UNREADABLE = (sqlite3.Error, UnicodeDecodeError)

# An automatic checkpoint passes over its errors (sqlite3WalDefaultHook in SQLite's main.c): the writer does its own.
# auto_vacuum comes first: it is fixed when the file gets its first page. INCREMENTAL lets free pages be given back.
# secure_delete, which builds of SQLite set differently, overwrites the sealed secrets of a job that has ended.
_WRITER_PRAGMAS = """
PRAGMA auto_vacuum = INCREMENTAL;
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA foreign_keys = ON;
PRAGMA wal_autocheckpoint = 0;
PRAGMA secure_delete = ON;
PRAGMA cache_size = -16000;
PRAGMA journal_size_limit = 67108864;
"""

# Two connections that checkpoint at once can corrupt a WAL (SQLite 3.7.0 to 3.51.2): readers never do.
_READER_PRAGMAS = """
PRAGMA query_only = ON;
PRAGMA wal_autocheckpoint = 0;
PRAGMA cache_size = -4000;
"""


def _unchanged(value: T) -> T:
    return value


# For each parameter that is not a plain int, float or str the sqlite3 module looks for an adapter and then for two
# methods, and raises and drops an exception for each that is missing. On its way through the tables a job has some
# fifty of these values, most of them NULL; a member of a StrEnum, which is no plain str either, costs a microsecond.
ADAPTED = (
    type(None), bool, bytes, State, Reason, StopReason, OnOrphan, ExecutionMode, QueueClass, NeedOn, OutcomeKind,
    WorkflowState, Intent, Strategy, CheckpointKind, Misfire, Overlap,
)  # fmt: skip
for kind in ADAPTED:
    sqlite3.register_adapter(kind, _unchanged)


class Database(aiosqlite.Connection):
    """aiosqlite with `run`, which calls a whole function in the connection's thread: each hop costs about 45 µs."""

    def __init__(self, connector: Callable[[], sqlite3.Connection]) -> None:
        super().__init__(connector, iter_chunk_size=256)
        self._loop = asyncio.get_running_loop()  # kept: Python 3.11 makes a system call of each question for it

    async def run(self, function: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kw: P.kwargs) -> T:
        """Call `function(connection, ...)` in the thread and return what it returns."""
        if not self._running:
            raise ValueError("the connection is closed")
        hop = Hop[T](self._loop)
        self._tx.put_nowait((hop, partial(_call, function, self._conn, *args, **kw)))  # type: ignore[arg-type]
        return await hop

    @property
    def awaited(self) -> bool:
        """Whether a further call waits for the thread. For a function in it, which can then end early."""
        return not self._tx.empty()


def _call(
    function: Callable[Concatenate[sqlite3.Connection, P], T],
    connection: sqlite3.Connection,
    *args: P.args,
    **kw: P.kwargs,
) -> T:
    """Call the function. After an error drop the cursors in its frames, which the traceback would keep.

    The snapshot of an unfinished cursor stays open even after COMMIT: all later reads would see old rows, and the WAL
    would grow.
    """
    try:
        return function(connection, *args, **kw)
    except BaseException as error:
        clear_frames(error.__traceback__)
        raise


def _connect(path: Path, pragmas: str) -> Database:
    def connector() -> sqlite3.Connection:
        connection = sqlite3.connect(path, isolation_level=None, cached_statements=256, timeout=5.0)
        try:
            connection.executescript(pragmas)
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    return Database(connector)


async def _opened(database: Database) -> Database:
    await database
    return database


async def open_writer(path: Path) -> Database:
    """The one connection that writes; `path` must have passed `examine`."""
    return await _opened(_connect(path, _WRITER_PRAGMAS))


async def open_reader(path: Path) -> Database:
    return await _opened(_connect(path, _READER_PRAGMAS))


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection for one thread, beside those of a running daemon. It cannot checkpoint, even if it closes last."""
    uri = f"{path.as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=5.0)) as connection:
        connection.executescript(_READER_PRAGMAS)
        yield connection


@contextmanager
def open_immutable(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to a file that nothing writes to: SQLite takes no lock and makes no file beside it."""
    with closing(sqlite3.connect(f"{path.as_uri()}?immutable=1", uri=True)) as connection:
        yield connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """A write transaction: committed at the end, rolled back after an error."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite itself rolls back on a full disk
            connection.execute("ROLLBACK")
        raise


@contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """A read transaction, or the one that is open: all reads see one state, and the file is locked once for them."""
    begins = not connection.in_transaction
    if begins:
        connection.execute("BEGIN")
    try:
        yield
    finally:
        if begins and connection.in_transaction:  # an error of the disk may have ended it
            connection.execute("COMMIT")


def json_array(values: Iterable[object]) -> str:
    """The parameter of a `json_each(?)`: any number of values in one statement."""
    return msgspec.json.encode(list(values)).decode()


def make_shrinkable(connection: sqlite3.Connection, path: Path) -> None:
    """Rewrite the file of an earlier release once, so that its free pages can be given back.

    A file that is too large for the time or for the disk stays as it is. It does not shrink, but SQLite uses its free
    pages again.
    """
    (mode,) = connection.execute("PRAGMA auto_vacuum").fetchone()
    size = path.stat().st_size
    if mode or size > MOST_REWRITTEN_BYTES or shutil.disk_usage(path.parent).free < REWRITE_ROOM * size:
        return
    try:
        connection.execute("VACUUM")
    except sqlite3.Error as error:
        if not is_full(error, path.parent):  # SQLite also writes to its temporary directory
            raise


def examine(path: Path, aside: Path) -> bool:
    """Whether `path` holds a database (True) or may become a new one (False). Touches nothing.

    `aside` is the `state.json` that an earlier daemon wrote beside its database. Raises StateRefused.
    """
    if path.exists() and not path.is_file():
        raise StateRefused(f"{path} is not a file", hint=f"move it away: {_move_away(path)}")
    size = path.stat().st_size if path.exists() else 0
    if size == 0:
        _refuse_lost(path, aside)
        return False
    with path.open("rb") as file:
        header = file.read(72)
    if not header.startswith(HEADER):
        raise StateRefused(f"{path} is not an SQLite database", hint=f"move it away: {_move_away(path)}")
    application = int.from_bytes(header[68:72], "big") or _application_in_wal(path)
    if application != APPLICATION_ID:
        raise StateRefused(
            f"{path} belongs to another program (application_id {application:#x})",
            hint=f"move it away ({_move_away(path)}), or choose another directory with --state-dir",
        )
    return True


def _move_away(path: Path) -> str:
    """The command for a file that is not ours."""
    return shlex.join(["mv", str(path), f"{path}.foreign"])


def _application_in_wal(path: Path) -> int:
    """The application id of a database whose header has none: it may still be in the WAL.

    A file without tables counts as ours: it may be left from a first start that was interrupted.
    """
    with open_unchanged(path) as connection:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    return int(application) if application or tables else APPLICATION_ID


@contextmanager
def open_unchanged(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that changes no file, as long as no other process writes. Raises StateRefused.

    An ordinary connection, even one that only read, moves the WAL into the database if it is the last one to close.
    """
    wal, index = (path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))
    with ExitStack() as stack:
        try:
            if not (wal.exists() and wal.stat().st_size > WAL_HEADER_BYTES):
                # Without this SQLite creates files beside it. A power loss may leave a WAL with only a header: then
                # `readonly_shm` waits ten seconds for a writer that does not exist and fails with "locking protocol".
                options = "immutable=1"
            elif index.exists():
                options = "readonly_shm=1"  # the index of the WAL is built in memory
            else:
                path = _copied(path, wal, Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stoker-"))))
                options = "mode=ro"
            connection = stack.enter_context(closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&{options}", uri=True)))
            yield connection
        except UNREADABLE as error:
            raise refusal(error, path, "stoker doctor says what is damaged; nothing was changed") from error


def refusal(
    error: sqlite3.Error | UnicodeDecodeError, path: Path, hint: str
) -> StateRefused | StorageFailed | DiskFull:
    """The error of a start: damage needs a person; a disk that failed or is full may work at the next start."""
    message = f"{path}: {error}"
    if is_full(error, path.parent):
        return DiskFull(message, hint="free some space; nothing was lost")
    failed = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_IOERR
    return StorageFailed(message) if failed else StateRefused(message, hint=hint)


def _copied(path: Path, wal: Path, to: Path) -> Path:
    """Read a copy: a WAL without its index cannot be read without creating the index."""
    for file in (path, wal):
        shutil.copyfile(file, to / file.name)
    return to / path.name


def _began_at_nothing(witness: Path) -> bool:
    """Whether this is a rollback journal of an empty database, left from a first start that was interrupted."""
    with witness.open("rb") as file:
        head = file.read(JOURNAL_PAGES.stop)
    return head[: len(JOURNAL)] in (JOURNAL, UNSYNCED) and not any(head[JOURNAL_PAGES])


def beside(database: Path) -> list[Path]:
    """The files that SQLite keeps beside a database. Their content is part of it."""
    return [database.with_name(database.name + suffix) for suffix in ("-wal", "-journal")]


def _refuse_lost(path: Path, aside: Path) -> None:
    journal = sorted((path.parent / "journal").glob("*.jsonl"))[-1:]
    witnesses = [aside, *journal, *beside(path)]
    present = [str(it) for it in witnesses if it.exists() and it.stat().st_size and not _began_at_nothing(it)]
    if present:
        what = "is empty" if path.exists() else "is missing"
        show = "shows" if len(present) == 1 else "show"
        raise StateRefused(
            f"{path} {what}, but {', '.join(present)} {show} that there was one; to open it now would lose the rest",
            hint="stoker restore --from-journal, or: stoker restore --from-backup latest; "
            "or put the database back, or move all away",
        )


def sync_commits(connection: sqlite3.Connection, *, wanted: bool) -> None:
    """Whether each commit is durable, and overwrites each page that it frees.

    Those that are not durable become so with the next one that is, or with `copy_wal`. They overwrite only what they
    delete on pages that they write anyway: the removal of old changes writes a quarter fewer pages.
    """
    connection.execute(f"PRAGMA synchronous = {'FULL' if wanted else 'NORMAL'}")
    connection.execute(f"PRAGMA secure_delete = {'ON' if wanted else 'FAST'}")


def write_header(connection: sqlite3.Connection) -> None:
    """Write the first page of the database as it is."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    connection.execute(f"PRAGMA user_version = {version}")


def copy_wal(connection: sqlite3.Connection) -> int:
    """Copy the WAL into the database, without waiting for readers; returns the number of copied pages."""
    _busy, _pages, done = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return int(done)


def optimize(connection: sqlite3.Connection) -> int:
    """Let SQLite refresh the statistics of its query planner (PRAGMA optimize)."""
    connection.execute("PRAGMA optimize")
    return 0
