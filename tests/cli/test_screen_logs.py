"""The log of a job on the screen of `stoker top`: it follows, pauses, finds, and nothing that a job prints gets out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stoker.cli.screen.log_screen import LogScroll
from tests.support import work
from tests.support.screens import Shown, opened

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import stoker
    from tests.support.daemon import DaemonProcess


@pytest.fixture
def calls(shared: DaemonProcess) -> Iterator[stoker.Client]:
    with shared.client() as client:
        yield client


def gated(first: str, gate: Path, then: str) -> str:
    return f"{first}; read _ < {gate}; {then}"


async def log_of(screen: Shown, name: str) -> None:
    """Open the log of the job with that name, whatever its state."""
    await screen.press("f", *["down"] * 6, "enter", "slash")
    await screen.type(name)
    await screen.press("enter")
    await screen.until(f"{name}:", f"filter {name}", "jobs: 1")
    await screen.press("home", "l")
    await screen.until("log of job")


async def test_a_log_when_it_grows_then_the_screen_follows_it_to_its_end(
    shared: DaemonProcess, calls: stoker.Client, gate: work.Gate
) -> None:
    script = gated("seq 1 100; printf '10%%\\r20%%\\r'", gate.path, "printf '30%%\\r'; echo; echo last words")
    work.submit_running(calls, work.shell(script, name="grows"))
    async with opened(shared) as screen:
        await log_of(screen, "grows")
        await screen.until("following", "100", "20%", without=("10%",))
        gate.open()
        await screen.until("complete", "last words", "30%", without=("20%",))


async def test_a_log_when_it_is_paused_then_the_view_stays_until_it_follows_again(
    shared: DaemonProcess, calls: stoker.Client, gate: work.Gate
) -> None:
    script = gated("seq 1001 1100", gate.path, "seq 2001 2100")
    work.submit_running(calls, work.shell(script, name="pauses"))
    async with opened(shared) as screen:
        await log_of(screen, "pauses")
        await screen.until("following", "1099")
        await screen.press("f")
        await screen.until("paused")
        gate.open()
        await screen.until("200 lines", "1099", without=("2100",))
        await screen.press("home")
        await screen.until("1002", without=("1099",))
        await screen.press("f")
        await screen.until("2100")


async def test_a_search_when_words_are_in_the_log_then_it_goes_from_one_to_the_next(
    shared: DaemonProcess, calls: stoker.Client
) -> None:
    job = work.submit(
        calls, work.shell("seq 1 300; echo needle one; seq 1 300; echo Needle two; seq 1 300", name="finds")
    )
    work.end_of(calls, job)
    async with opened(shared) as screen:
        await log_of(screen, "finds")
        await screen.until("complete", "300")
        await screen.press("slash")
        await screen.type("needle")
        await screen.press("enter")
        await screen.until("Needle two", without=("needle one",))
        await screen.press("N")
        await screen.until("needle one", without=("Needle two",))
        await screen.press("n")
        await screen.until("Needle two", without=("needle one",))
        await screen.press("slash")
        await screen.type("nowhere")
        await screen.press("enter")
        await screen.until("not in the loaded lines")
        await screen.press("escape")
        await screen.until("all jobs")


async def test_a_log_when_it_is_a_mebibyte_of_escapes_then_none_reaches_the_screen(
    shared: DaemonProcess, calls: stoker.Client, tmp_path: Path
) -> None:
    evil = tmp_path / "evil"
    evil.write_bytes(b"\x1b[2J\x1b]0;title\x07\x1b[31mred\x1b[0m\xc2\x9b31m\r\n" * (2**20 // 32) + b"safe\n")
    job = work.submit(calls, work.shell(f"cat {evil}", name="evil"))
    work.end_of(calls, job)
    async with opened(shared) as screen:
        await log_of(screen, "evil")
        text = await screen.until("complete", "safe")
        await screen.press("home")
        text += await screen.until("^[[2J^[]0;title^Gred", without=("safe",))
    assert [char for char in text if not char.isprintable() and char != "\n"] == []


async def test_a_log_when_the_daemon_restarts_then_it_goes_on_where_it_was(
    daemon: DaemonProcess, gate: work.Gate
) -> None:
    with daemon.client() as client:
        work.submit_running(
            client, work.shell(gated("echo before", gate.path, "echo after"), name="stays", survive=True)
        )
    async with opened(daemon) as screen:
        await log_of(screen, "stays")
        await screen.until("before", "following")
        daemon.kill9()
        await screen.until("the daemon is away", "before")
        daemon.start()
        gate.open()
        await screen.until("before", "after", "complete")
        assert len(screen.app.screen.query_one(LogScroll).lines) == 2


async def test_a_log_when_the_job_has_not_started_then_it_waits_and_can_be_left(
    shared: DaemonProcess, calls: stoker.Client
) -> None:
    job = work.submit(calls, work.shell("true", name="later", wait_for="event:never"))
    async with opened(shared) as screen:
        await log_of(screen, "later")
        await screen.until("(0 lines)")
        await screen.press("q")
        await screen.until("all jobs", without=("log of job",))
    calls.cancel(job)
