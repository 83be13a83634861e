"""Reading a whole journal: its chains of files, each verified line by line.

A chain begins with all rows of a database; its first files may have been pruned. Invariants: a line is returned only if
its hash is right, which covers every line before it in the chain; no file is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path

from msgspec import Struct

from stoker.core.errors import JournalBroken
from stoker.core.units import counted
from stoker.store.journal_files import START, Header, Line, hash_of, lines, read_header, read_line, whole_files


class JournalChain(Struct, frozen=True):
    """The files of a chain, oldest first, and their headers. `next_at`: when the next chain began (UTC ms)."""

    paths: list[Path]
    headers: list[Header]
    next_at: int | None

    @property
    def header(self) -> Header:
        return self.headers[0]

    @property
    def is_whole(self) -> bool:
        """Whether its first file is there."""
        return self.header.follows == START.hex()


class Torn(Struct, frozen=True):
    """The end of a journal that a crash cut off."""

    path: Path
    bytes: int

    def __str__(self) -> str:
        return f"the last line of {self.path} was cut off ({counted(self.bytes, 'byte')}) and does not count"


def chains(directory: Path) -> list[JournalChain]:
    """The chains of a journal, oldest first. Raises OSError or JournalBroken."""
    grouped: list[tuple[list[Path], list[Header]]] = []
    for path in whole_files(directory):
        header, _ = read_header(path, next(lines(path), b""))
        if not grouped or grouped[-1][1][0].chain != header.chain:
            grouped.append(([], []))
        grouped[-1][0].append(path)
        grouped[-1][1].append(header)
    following = [headers[0].at for _, headers in grouped[1:]]
    return [JournalChain(paths, headers, next_at) for (paths, headers), next_at in zip_longest(grouped, following)]


def newest_chain(directory: Path) -> str | None:
    """The name of the newest chain whose first line can be read. Raises OSError."""
    for path in reversed(whole_files(directory)):
        with suppress(JournalBroken):
            return read_header(path, next(lines(path), b""))[0].chain
    return None


def read_chain(chain: JournalChain, read: Callable[[Path, bytes], Line] = read_line) -> Iterator[Line | Torn]:
    """Every line of a chain, and then its incomplete end, if there is one. Raises OSError or JournalBroken."""
    digest: bytes | None = None
    for path, header in zip(chain.paths, chain.headers, strict=True):
        if digest is not None and header.follows != digest.hex():
            raise JournalBroken(
                f"{path} does not continue the file before it: a file is missing, or the end of one",
                hint="stoker audit verify; restore a backup, or up to a time before that: --to TIME",
            )
        texts = lines(path)
        _, digest = read_header(path, next(texts))
        for number, text in enumerate(texts, start=2):
            digest = hash_of(text, digest)
            if digest is None:
                yield _torn(path, number, text, texts, last=path == chain.paths[-1])
                return
            yield read(path, text)


def _torn(path: Path, number: int, text: bytes, rest: Iterator[bytes], *, last: bool) -> Torn:
    """The incomplete last line, as a crash leaves it. Raises JournalBroken for any other line with a wrong hash."""
    if not last or next(rest, None) is not None or text.endswith(b'"}\n'):
        raise JournalBroken(
            f"{path}, line {number}, does not match its hash: it was changed, or one before it is missing",
            hint="stoker audit verify; restore a backup, or up to a time before that: --to TIME",
        )
    return Torn(path, len(text))
