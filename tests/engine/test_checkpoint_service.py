"""Large checkpoints beside a loop that must not wait: packed and unpacked in a thread, and unpacked once."""

from __future__ import annotations

import asyncio
import base64
import random
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.requests import CheckpointPart
from stoker.core.workflow import checkpoint as core
from stoker.core.workflow.checkpoint import GZIP_ABOVE_BYTES, Checkpoint, Packed
from stoker.engine.saved_checkpoints import Save
from stoker.service import checkpoints
from stoker.service.checkpoints import CheckpointService
from stoker.store import checkpoints as rows
from stoker.workflows import archive
from tests.support.facts import until_async
from tests.support.jobs import checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable


class Desk:
    """The parts of an engine that checkpoints use: an open run, a loop that takes messages, rows to read."""

    def __init__(self, *kept: Checkpoint) -> None:
        self.kept = {one.id: one for one in kept}
        self.reads: list[Callable[..., Any]] = []
        self.posted: list[Save] = []
        self.memory = SimpleNamespace(by_run=lambda run_id: run_id, jobs_by_run={"1.1.a": 1})
        self.intake = SimpleNamespace(closed=None)
        self.refusals = SimpleNamespace(check=lambda: None)
        self.tokens = SimpleNamespace(run_of=lambda token: token)
        self.config = SimpleNamespace(checkpoints=SimpleNamespace(min_interval_ms=0))
        self.clock = SimpleNamespace(now=lambda: SimpleNamespace(steady=0))
        self.inbox = SimpleNamespace(post=self.posted.append)
        self.telemetry = SimpleNamespace(count=lambda _what: None)
        self.queries = self
        self.tasks: list[asyncio.Future[None]] = []
        self.background = SimpleNamespace(start=lambda _name, work: self.tasks.append(asyncio.ensure_future(work)))

    async def run(self, query: Callable[..., Any], ident: int) -> Checkpoint | None:
        self.reads.append(query)
        return self.kept.get(ident)


@pytest.mark.parametrize(("size", "off_the_loop"), [(GZIP_ABOVE_BYTES, False), (GZIP_ABOVE_BYTES + 1, True)])
async def test_save_when_it_is_large_then_it_is_packed_in_a_thread(
    monkeypatch: pytest.MonkeyPatch, size: int, *, off_the_loop: bool
) -> None:
    threads = []

    def watched(data: bytes) -> Packed:
        threads.append(threading.current_thread() is not threading.main_thread())
        return core.pack(data)

    monkeypatch.setattr(checkpoints, "pack", watched)
    desk = Desk()
    part = CheckpointPart(token="1.1.a", data=base64.b64encode(bytes(size)).decode())

    service = CheckpointService(desk)  # type: ignore[arg-type]
    saving = service.save(part, 1)
    await until_async(lambda: desk.posted)
    assert not saving.done()

    assert threads == [off_the_loop]
    assert desk.posted[0]._packed == core.pack(bytes(size))


async def test_save_when_its_connection_ends_halfway_then_its_pieces_are_discarded() -> None:
    service = CheckpointService(Desk())  # type: ignore[arg-type]
    for connection in (1, 2):
        await service.save(CheckpointPart(token="1.1.a", data="YQ==", more=True), connection)

    service.hung_up(1)

    assert len(service._uploads) == 1


async def test_get_when_it_is_read_piece_by_piece_then_it_is_read_and_unpacked_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = random.Random(1).randbytes(1_200_000)
    desk, unpacked = Desk(checkpoint(data), checkpoint(b"x", 2)), []

    def watched(checkpoint: Checkpoint) -> bytes:
        unpacked.append(threading.current_thread() is not threading.main_thread())
        return core.opened(checkpoint)

    monkeypatch.setattr(checkpoints, "opened", watched)
    service, read = CheckpointService(desk), b""  # type: ignore[arg-type]
    while len(read) < len(data):
        read += base64.b64decode((await service.piece(1, len(read)))["data"])

    assert read == data
    assert unpacked == [True]
    assert desk.reads == [rows.by_id]
    assert service._unpacked.take(1) is None  # data that was read to its end takes no memory


async def test_get_when_no_data_is_requested_then_the_data_is_not_read() -> None:
    desk = Desk(checkpoint(b"x"))

    assert (await CheckpointService(desk).get(1))["bytes"] == 1  # type: ignore[arg-type]

    assert desk.reads == [rows.about]


def test_archive_when_checkpoints_are_large_then_it_reads_few_and_omits_old_data() -> None:
    sizes = {1: 9_000_000, 2: 10, 3: archive.TOGETHER_BYTES, 4: 9_000_000, 5: 600_000, 6: 400_000, 7: 400_000}
    links = [checkpoint(b"", seq, size=size) for seq, size in sizes.items()]

    portions = [[link.seq for link in portion] for portion in archive._portions(links, since=3)]

    assert portions == [[1, 2], [3], [4], [5, 6], [7]]
    assert archive._checkpoint_view(links[0])["left_out"]
