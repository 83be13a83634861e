"""The files of the journal: `journal/NNNNNNNN.jsonl`, one JSON object a line, each with the hash of itself and of all
before it.

The first line of a file is a Header, every other one a Line: the rows that one commit changed. Files with the same
`chain` continue one another; a new chain begins with all rows of the database. Only the last line of the last file may
be incomplete, after a crash: its rows are still in the outbox. Invariants: no function here opens a database; a line
that is longer than any that Stoker writes is not read.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from stoker.core.errors import JournalBroken
from stoker.files import make_regular, open_regular, sync

NAME = re.compile(r"[0-9]{8}\.jsonl")
START = bytes(32)  # the hash before the first line of a chain
HASH = b',"hash":"'
HASH_BYTES = len(HASH) + 64 + len(b'"}\n')
ROTATED_BYTES = 16 * 1024 * 1024
CREATE = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
CHUNK_BYTES = 1024 * 1024
# Longer than the largest row: 16 MiB, of which each byte may take six in JSON.
LONGEST_BYTES = 128 * 1024 * 1024


class Position(Struct, frozen=True, order=True):
    """A point in the history of a database: the newest entry of its outbox, and its newest change."""

    last: int = 0
    seq: int = 0


class Header(Struct, frozen=True, kw_only=True):
    """The first line of a file. `last` and `seq`: the position after which it begins; `follows`: the hash before it.

    `base`: the file begins among the initial rows of its chain.
    """

    journal: int = 1  # the version of the format
    chain: str
    instance: str
    schema: int
    follows: str
    last: int
    seq: int
    at: int
    base: bool


class Line(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The changes up to a position, at a time (UTC ms): rows that exist, and the keys of deleted rows.

    `more`: the following line belongs to the same commits. `base`: these are initial rows of the chain.
    """

    last: int
    seq: int
    at: int
    more: bool = False
    base: bool = False
    put: dict[str, list[Any]] = {}
    gone: dict[str, list[Any]] = {}

    @property
    def position(self) -> Position:
        return Position(self.last, self.seq)


class Outline(Line, frozen=True, kw_only=True):
    """A line whose rows stay JSON: enough to verify a journal, in a third of the time."""

    put: dict[str, list[Raw]] = {}
    gone: dict[str, list[Raw]] = {}


_encode_into = msgspec.json.Encoder().encode_into
_header = msgspec.json.Decoder(Header).decode
_line = msgspec.json.Decoder(Line).decode
_outline = msgspec.json.Decoder(Outline).decode


def sealed(line: Header | Line, digest: bytes) -> tuple[bytes, bytes]:
    """The text of a line that follows the line with hash `digest`, and its own hash."""
    text = bytearray()
    own = _append_sealed(text, line, digest)
    return bytes(text), own


def _append_sealed(text: bytearray, line: Header | Line, digest: bytes) -> bytes:
    """Append a line to `text` without a copy: it has 200 KB for a hundred submits. Returns its own hash."""
    begin = len(text)
    _encode_into(line, text, begin)
    hashed = hashlib.sha256(digest)
    with memoryview(text) as whole, whole[begin:] as body:
        hashed.update(body)
    text[-1:] = HASH + hashed.hexdigest().encode() + b'"}\n'
    return hashed.digest()


def hash_of(text: bytes, digest: bytes) -> bytes | None:
    """The hash of a line that follows the line with hash `digest`; None if it is incomplete or was changed."""
    hashed = hashlib.sha256(digest)
    hashed.update(memoryview(text)[:-HASH_BYTES])
    hashed.update(b"}")
    digest = hashed.digest()
    return digest if text[-HASH_BYTES:] == HASH + digest.hex().encode() + b'"}\n' else None


class End(Struct, frozen=True):
    """The end of a journal: after the last whole line of its last file. `torn`: bytes after that line."""

    path: Path
    header: Header
    digest: bytes
    size: int
    position: Position
    at: int
    torn: int
    complete: bool
    """Whether the initial rows of its chain are complete."""


def files(directory: Path) -> list[Path]:
    """The files of a journal, oldest first. Raises OSError."""
    try:
        return sorted(path for path in directory.iterdir() if NAME.fullmatch(path.name))
    except FileNotFoundError:
        return []


def lines(path: Path) -> Iterator[bytes]:
    """Raises OSError."""
    with os.fdopen(open_regular(path), "rb", CHUNK_BYTES) as file:
        while text := file.readline(LONGEST_BYTES):
            yield text


def read_header(path: Path, text: bytes) -> tuple[Header, bytes]:
    """The first line of a file, and its hash. Raises JournalBroken."""
    try:
        header = _header(text)
        digest = hash_of(text, bytes.fromhex(header.follows))
    except (msgspec.MsgspecError, ValueError) as error:
        raise JournalBroken(f"{path}: its first line is not the header of a journal: {error}") from error
    if digest is None:
        raise JournalBroken(f"{path}: its first line does not match its hash")
    return header, digest


def replaced_by(paths: list[Path], at: int, seq: int) -> int:
    """The number of these files, oldest first, that contain only changes which a backup of that time has too.

    Raises OSError or JournalBroken.
    """
    for count, path in enumerate(paths[1:]):
        header, _ = read_header(path, next(lines(path), b""))
        if header.at > at or header.seq > seq:
            return count
    return max(0, len(paths) - 1)


def read_line(path: Path, text: bytes) -> Line:
    """Raises JournalBroken."""
    return _read(_line, path, text)


def read_outline(path: Path, text: bytes) -> Line:
    """Raises JournalBroken."""
    return _read(_outline, path, text)


def _read(decode: Callable[[bytes], Line], path: Path, text: bytes) -> Line:
    try:
        return decode(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise JournalBroken(f"{path}: a line is whole, but it cannot be read: {error}") from error


def find_end(directory: Path) -> End | None:
    """The end of the journal in a directory; None if there is none. Raises OSError or JournalBroken."""
    paths = whole_files(directory)
    return _end_of(paths[-1]) if paths else None


def whole_files(directory: Path) -> list[Path]:
    """All files, except a last one without a whole header, as a crash leaves it. Raises OSError."""
    paths = files(directory)
    return paths if not paths or next(lines(paths[-1]), b"").endswith(b"\n") else paths[:-1]


def _end_of(path: Path) -> End:
    texts = lines(path)
    text = next(texts)
    header, digest = read_header(path, text)
    size, torn, newest = len(text), 0, b""
    for text in texts:
        if torn or (following := hash_of(text, digest)) is None:
            torn += len(text)
        else:
            newest, digest = text, following
            size += len(text)
    if not newest:
        return End(path, header, digest, size, Position(header.last, header.seq), header.at, torn, not header.base)
    line = read_line(path, newest)
    return End(path, header, digest, size, line.position, line.at, torn, not (line.base and line.more))


class Tail:
    """The file that lines are appended to. Owns its descriptor, the hash of the last line, and the rotation.

    Every method raises OSError; after that only `close` is called.
    """

    def __init__(self, directory: Path, rotated_bytes: int = ROTATED_BYTES) -> None:
        self._directory = directory
        self._rotated_bytes = rotated_bytes
        self._descriptor = -1
        self._opened: os.stat_result | None = None  # the file of the descriptor; only what says which file it is counts
        self._digest = START
        self._size = 0
        self.path = directory
        self.header: Header | None = None

    def begin(self, header: Header) -> None:
        """Begin a new file, durably."""
        self.close()
        self._directory.mkdir(mode=0o700, exist_ok=True)
        sync(self._directory.parent)
        present = whole_files(self._directory)
        number = 1 + (int(present[-1].stem) if present else 0)
        self.path = self._directory / f"{number:08}.jsonl"
        text, self._digest = sealed(header, bytes.fromhex(header.follows))
        self.path.unlink(missing_ok=True)  # a file whose header is not whole
        self._descriptor = os.open(self.path, CREATE, 0o600)
        _write(self._descriptor, text)
        os.fsync(self._descriptor)
        sync(self._directory)
        self._opened = os.fstat(self._descriptor)
        self._size, self.header = len(text), header

    def resume(self, end: End) -> None:
        """Continue after the last whole line of a journal, in a copy of its last file.

        After a failed sync, now or before the start, the kernel may have marked pages as clean that it had not
        written. Another sync of that file would prove nothing.
        """
        self.close()
        fresh = end.path.with_suffix(".new")
        self._descriptor = make_regular(str(fresh))
        with os.fdopen(open_regular(end.path), "rb") as file:
            for begin in range(0, end.size, CHUNK_BYTES):
                _write(self._descriptor, file.read(min(CHUNK_BYTES, end.size - begin)))
        os.fsync(self._descriptor)
        fresh.replace(end.path)
        sync(self._directory)
        self._opened = os.fstat(self._descriptor)
        self.path, self.header, self._digest, self._size = end.path, end.header, end.digest, end.size

    def write(self, lines: Iterable[Line]) -> None:
        """Append lines; they are durable after `sync`."""
        text = bytearray()
        for line in lines:
            self._digest = _append_sealed(text, line, self._digest)
        _write(self._descriptor, text)
        self._size += len(text)

    def sync(self) -> None:
        os.fdatasync(self._descriptor)

    def rotate_if_due(self, newest: Line) -> None:
        """Begin another file after the newest line if this one is long."""
        if self.header is not None and self._size >= self._rotated_bytes:
            self.sync()
            base, follows = newest.base and newest.more, self._digest.hex()
            self.begin(replace(self.header, follows=follows, last=newest.last, seq=newest.seq, at=newest.at, base=base))

    @property
    def in_place(self) -> bool:
        """Whether the file is still at its path."""
        try:
            return self._opened is not None and os.path.samestat(self.path.lstat(), self._opened)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _write(descriptor: int, data: bytes | bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
