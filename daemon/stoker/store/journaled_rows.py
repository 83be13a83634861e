"""The rows of a database compared with the journal, for the doctor: each must be as the journal has it.

Most columns have no checksum of their own; the lines of the journal have one, and together they have every row. Of the
newest image of each row a hash is kept, of a bounded number of rows: of a large database the journal is read several
times. Rows with an entry in the outbox changed later and are left out; the log of changes has its own chain.
Invariant: it only reads. It may only be asked while no daemon runs.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Generator, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct, to_builtins
from msgspec.structs import astuple

from stoker.store import outbox
from stoker.store.jobs_from_changes import shown
from stoker.store.journal_chains import JournalChain, Torn, chains, read_chain
from stoker.store.journal_files import read_outline
from stoker.store.migrate import schema_of
from stoker.store.outbox import Table

AT_ONCE = 500_000  # hashes: about 100 MB
MOST_DESCRIBED = 100  # rows
PENDING = "SELECT place, key1, key2 FROM outbox WHERE id > ?"
COUNT = "SELECT count(*) FROM {table}"
GONE = 0  # the hash of a deleted row

Key = tuple[str, Any]
"""A table, and the key of a row in it: the value of its column, or a tuple of two."""

_encode = msgspec.json.encode
_decode = msgspec.json.decode


class Image(NamedTuple):
    """A row as a line of the journal has it: its JSON, None if it was deleted. `last`: the newest entry of the line."""

    key: Key
    text: bytes | None
    last: int


def differences(connection: sqlite3.Connection, directory: Path) -> Generator[str, None, int]:
    """A sentence for each row that is not as in the journal; returns how many rows could not be compared.

    Raises OSError, JournalBroken or sqlite3.Error.
    """
    chain = _chain_of(connection, directory)
    if chain is None:
        return 0
    comparison = _Comparison(connection, chain)
    yield from comparison.described(list(islice(comparison.unlike(), MOST_DESCRIBED)))
    return comparison.uncompared


def _chain_of(connection: sqlite3.Connection, directory: Path) -> JournalChain | None:
    """The chain that this database continues; None if there is none, as after a restore."""
    if not outbox.exists(connection):
        return None
    name, schema = outbox.chain(connection), schema_of(connection)
    of_mine = (one for one in chains(directory) if (one.header.chain, one.header.schema) == (name, schema))
    return next(of_mine, None)


class _Comparison:
    """A database and the chain of its journal. The log of changes is not compared.

    `uncompared`: the rows whose files of the journal were removed. Nothing is compared with a chain whose initial rows
    are not complete, as a daemon leaves it that ends while it begins a chain: the next one begins another.
    """

    def __init__(self, connection: sqlite3.Connection, chain: JournalChain) -> None:
        self._connection = connection
        self._chain = chain
        self.uncompared = 0
        self._has_initial_rows = False
        self._tables = {table.name: table for table in outbox.tables(connection)}

    def unlike(self) -> Iterator[Key]:
        """The keys of rows that differ."""
        counts = (self._connection.execute(COUNT.format(table=name)).fetchone()[0] for name in self._tables)
        parts = 1 + sum(counts) // AT_ONCE
        for part in range(parts):
            yield from self._unlike(part, parts)

    def _unlike(self, part: int, parts: int) -> Iterator[Key]:
        """Those of one part of the keys. If the first files were removed, a row that the rest lacks is not compared."""
        hashes, last = dict[Key, int](), 0
        for key, text, last in self._images():  # noqa: B007 - the last one counts
            if hash(key) % parts == part:
                hashes[key] = GONE if text is None else hash(text)
        if not self._has_initial_rows:
            return
        pending = self._pending(last)
        for key, row in self._rows():
            if hash(key) % parts != part:
                continue
            journaled = hashes.pop(key, None)
            if key in pending:
                continue
            if journaled is None and not self._chain.is_whole:
                self.uncompared += 1
            elif journaled is None or journaled != hash(_encode(row)):
                yield key
        yield from (key for key, digest in hashes.items() if digest != GONE and key not in pending)

    def described(self, keys: Collection[Key]) -> Iterator[str]:
        """A sentence for each of these rows, with the columns that differ."""
        if not keys:
            return
        wanted = set(keys)
        journaled = {key: text for key, text, _ in self._images() if key in wanted}
        stored = {key: row for key, row in self._rows() if key in wanted}
        for key in keys:
            if (sentence := _sentence(key, stored.get(key), journaled.get(key))) is not None:
                yield sentence

    def _images(self) -> Iterator[Image]:
        """Every row in the journal, and every key of a deleted one, oldest first."""
        self._has_initial_rows = not self._chain.header.base
        decoders = {name: msgspec.json.Decoder(_key_type(table)).decode for name, table in self._tables.items()}
        for line in read_chain(self._chain, read_outline):
            if isinstance(line, Torn):
                return
            self._has_initial_rows |= not (line.base and line.more)
            for name in self._tables.keys() & line.put.keys():
                for raw in line.put[name]:
                    yield Image((name, _key(astuple(decoders[name](raw)))), bytes(raw), line.last)
            for name in self._tables.keys() & line.gone.keys():
                for raw in line.gone[name]:
                    yield Image((name, _key(_decode(raw))), None, line.last)

    def _rows(self) -> Iterator[tuple[Key, Struct]]:
        for table in self._tables.values():
            for values in self._connection.execute(table.rows):
                yield (table.name, _key([values[index] for index in table.key_indexes])), table.row(values)

    def _pending(self, last: int) -> set[Key]:
        """The keys of rows that changed after the entry `last`."""
        entries = self._connection.execute(PENDING, (last,))
        return {(place, _key(key[: len(self._tables[place].key)])) for place, *key in entries if place in self._tables}


def _key_type(table: Table) -> type[Struct]:
    return msgspec.defstruct(table.name, [(column, Any) for column in table.key])


def _key(values: Sequence[Any]) -> Any:
    return values[0] if len(values) == 1 else tuple(values)


def _sentence(key: Key, stored: Struct | None, journaled: bytes | None) -> str | None:
    """The difference; None if only the text of the JSON differs, because another version of a library wrote it."""
    row = f"{key[0]} {shown(key[1])}"
    if stored is None:
        return f"{row} is not there, the journal has it"
    if journaled is None:
        return f"{row} is there, the journal does not have it"
    there, before = to_builtins(stored), _decode(journaled)
    column = next((name for name in {**there, **before} if there.get(name) != before.get(name)), None)
    if column is None:
        return None
    return f"{row}: {column} is {shown(there.get(column))}, the journal has {shown(before.get(column))}"
