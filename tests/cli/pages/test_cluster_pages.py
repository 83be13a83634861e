"""The pages and the list of queues while a cluster does not answer: its queue, and the one that overflows to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import DaemonProcess
from tests.support.facts import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import stoker
    from tests.support.web_page import Browser

SETTINGS = """
[cluster]
directory = "{home}/shared"
[queues.hpc]
backend = "slurm"
[queues.bulk]
overflow = "hpc"
overflow_above = 3
"""


@pytest.fixture(scope="module")
def shared() -> Iterator[DaemonProcess]:
    """A daemon whose Slurm has no settings, or is not installed."""
    process = DaemonProcess(environ={"SLURM_CONF": "/dev/null"})
    process.config.write_text(SETTINGS.format(home=process.home))
    with process:
        yield process


def away(client: stoker.Client) -> str:
    """Why the cluster does not answer, once it was asked."""

    def said() -> str | None:
        queues = {queue["name"]: queue for queue in client.call("queue.list")["queues"]}
        assert queues["bulk"]["backend_away"] is None
        text: str | None = queues["hpc"]["backend_away"]
        return text if text and "squeue" in text else None

    return str(until(said, why="a first answer of the cluster"))


def test_queue_when_its_cluster_is_away_then_its_page_gives_the_reason(client: stoker.Client, browser: Browser) -> None:
    why = away(client)

    page = browser.get("/queues/hpc")

    assert '<span class="state state-away">away</span>' in page
    assert f"slurm, which does not answer: {why.split()[0]}" in page
    assert 'href="/queues/hpc/pause"' in page


def test_queue_when_it_overflows_then_its_page_names_the_other(browser: Browser) -> None:
    assert "to hpc, under pressure and above 3 queued" in browser.get("/queues/bulk")


def test_overview_when_a_cluster_is_away_then_a_notice_leads_to_its_queue(
    client: stoker.Client, browser: Browser
) -> None:
    away(client)

    page = browser.get("/")

    assert "The cluster does not answer, no job starts there (hpc)" in page
    assert 'href="/queues/hpc"' in page


def test_queue_list_when_a_cluster_is_away_then_it_is_shown_as_away(
    shared: DaemonProcess, client: stoker.Client
) -> None:
    away(client)

    listed = shared.cli("queue").stdout

    (row,) = (line for line in listed.splitlines() if line.startswith("hpc "))
    assert " away " in row
    assert "slurm, which does not answer: " in listed
