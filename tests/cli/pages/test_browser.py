"""Every page in a real browser: no error, no barrier, no sideways scroll, and it follows the daemon.

Owns a daemon with a thousand jobs and a live workflow, one browser, and the values for the addresses of all pages: a
page that is added to the tables is tested here by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stoker.cli.pages.subjects.tables import ALL_PAGES
from tests.support import chromium
from tests.support.facts import until
from tests.support.flows import chain, sent_flow, step
from tests.support.web_page import WebPageProcess
from tests.support.work import Gate, end_of, shell, submit, submit_many, submit_running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser as Chromium
    from playwright.sync_api import Route

    from tests.support.daemon import DaemonProcess

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(chromium.PROGRAM is None, reason="chromium is not installed"),
]

MANY = 1000


@pytest.fixture(scope="module")
def engine() -> Iterator[Chromium]:
    with chromium.chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def world(shared: DaemonProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, object]]:
    """The values for the addresses of the pages."""
    gate = Gate(tmp_path_factory.mktemp("world") / "gate")
    with shared.client() as client:
        client.call("queue.set", {"name": "later"})
        client.call("queue.pause", {"name": "later"})
        client.call("resource.set", {"name": "gpu", "capacity": 2})
        client.call("rate.set", {"key": "api", "rate": "10/m"})
        submit_many(client, [{**shell("exit 0"), "queue": "later", "name": f"job {n}"} for n in range(MANY)])
        failed = submit(
            client,
            {
                **shell("echo one; echo two >&2; exit 7"),
                "name": "<b>\u202egnp.exe",
                "max_attempts": 2,
                "base_delay_ms": 1,
            },
        )
        end_of(client, failed)
        running = submit_running(client, gate.spec(resources={"gpu": 1}))
        flow = sent_flow(
            client, {"build": step("exit 0"), "test": step("sleep 600", "build"), "ship": step("exit 0", "test")}
        )
        checkpoint = chain(client, workflow=flow)[0]["id"]
        client.call("schedule.add", {"name": "yearly", "timing": "0 3 1 1 *", "job": shell("exit 0")})
        client.call("schedule.run", {"name": "yearly"})
        yield {
            "job": failed,
            "running": running,
            "workflow": flow,
            "queue": "later",
            "epoch": 1,
            "checkpoint": checkpoint,
            "schedule": "yearly",
        }
        gate.open()
        client.call("workflow.cancel", {"id": flow})


def addresses(world: dict[str, object]) -> list[str]:
    return [page.path.format_map(world) for page in ALL_PAGES]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_when_axe_reads_them_then_it_finds_no_barrier(
    engine: Chromium, web: WebPageProcess, world: dict[str, object], scheme: str
) -> None:
    assert scheme in ("light", "dark")
    with chromium.window(engine, web, scheme=scheme) as window:  # type: ignore[arg-type]
        for address in addresses(world):
            window.open(address)
            window.page.wait_for_selector("h1")
            assert (address, window.barriers()) == (address, [])
        assert window.complaints == []


def test_pages_when_the_screen_is_a_phone_then_none_scrolls_sideways(
    engine: Chromium, web: WebPageProcess, world: dict[str, object]
) -> None:
    with chromium.window(engine, web, width=320) as window:
        for address in addresses(world):
            window.open(address)
            assert (address, window.wider_than_itself()) == (address, [])


def test_pages_when_there_are_no_scripts_then_they_show_the_same(
    engine: Chromium, web: WebPageProcess, world: dict[str, object]
) -> None:
    with (
        chromium.window(engine, web) as window,
        chromium.window(engine, web, scripts=False) as plain,
    ):
        for address in addresses(world):
            window.open(address)
            plain.open(address)
            assert plain.page.inner_text("h1") == window.page.inner_text("h1")
            assert len(plain.text) > len(window.text) / 2


def test_times_when_the_clock_of_the_browser_is_ahead_then_the_hosts_counts(
    shared: DaemonProcess, engine: Chromium, web: WebPageProcess
) -> None:
    with shared.client() as client, chromium.window(engine, web) as window:
        job = submit(client, shell("exit 0"))
        end_of(client, job)
        window.page.add_init_script("const now = Date.now; Date.now = () => now() + 5 * 3_600_000")

        window.open(f"/jobs/{job}")

        window.page.wait_for_function("document.querySelector('relative-time')?.innerText.endsWith(' ago')")
        assert "h" not in window.page.inner_text("relative-time")


def test_jobs_when_all_shown_are_chosen_then_the_form_names_each(
    engine: Chromium, web: WebPageProcess, world: dict[str, object]
) -> None:
    with chromium.window(engine, web) as window:
        window.open(f"/jobs?queue={world['queue']}")
        window.page.click("text=Choose all shown")
        window.page.select_option("#chosen select", index=1)
        window.page.click("text=Go on…")

        window.page.wait_for_url("**/jobs/chosen?*")
        assert window.page.url.count("id=") == 50


def test_jobs_when_they_change_after_some_were_chosen_then_these_stay_chosen(
    shared: DaemonProcess, engine: Chromium, web: WebPageProcess, world: dict[str, object]
) -> None:
    events: list[Route] = []
    with shared.client() as client, chromium.window(engine, web) as window:

        def hold(request: Route) -> None:
            events.append(request)  # the first event comes as late as on a busy machine

        window.page.route("**/live/**", hold)
        window.open(f"/jobs?queue={world['queue']}")
        window.page.click("text=Choose all shown")
        newest = client.call("job.list", {"queue": world["queue"], "limit": 1})["jobs"][0]["id"]
        client.call("job.cancel", {"id": newest})

        until(lambda: window.page.evaluate("1") and events, why="the request for events")
        events[0].continue_()

        window.page.wait_for_selector(f"#job-{newest} .state-cancelled")
        assert window.page.locator("#chosen input:checked, input[form=chosen]:checked").count() == 50


def test_action_when_only_the_keyboard_is_used_then_it_is_found_and_sent(
    shared: DaemonProcess, engine: Chromium, web: WebPageProcess, tmp_path: Path
) -> None:
    gate = Gate(tmp_path / "gate")
    with shared.client() as client, chromium.window(engine, web) as window:
        job = submit_running(client, gate.spec())
        window.open(f"/jobs/{job}")

        press_until(window, "Cancel…")
        window.page.keyboard.press("Enter")
        window.page.wait_for_url(f"**/jobs/{job}/cancel")
        window.page.wait_for_function("document.activeElement.name === 'reason'")
        window.page.keyboard.type("typed without a mouse")
        window.page.keyboard.press("Enter")

        window.page.wait_for_url(f"**/jobs/{job}")
        assert end_of(client, job)[0] == "cancelled"
        window.wait_for("cancelled")
        assert "typed without a mouse" in [change["note"] for change in client.history(job)["changes"]]


def press_until(window: chromium.Window, text: str) -> None:
    """Press Tab until the element with that text has the focus."""
    for _ in range(100):
        window.page.keyboard.press("Tab")
        if window.page.evaluate("document.activeElement.innerText") == text:
            return
    raise AssertionError(f"Tab never reaches {text!r}")


def test_page_when_the_daemon_is_killed_then_it_comes_back_with_what_followed(
    daemon: DaemonProcess, engine: Chromium, tmp_path: Path
) -> None:
    gate = Gate(tmp_path / "gate")
    with WebPageProcess(daemon) as web, chromium.window(engine, web) as window:
        with daemon.client() as client:
            job = submit_running(client, {**gate.spec(), "survive": True})
        window.open(f"/jobs/{job}")
        window.wait_for("running")

        daemon.kill9()
        window.wait_for("The daemon does not answer")
        gate.open()
        window.open("/jobs")
        window.wait_for("This page comes back by itself")
        daemon.start()

        window.page.wait_for_selector(f"#job-{job}")
        window.wait_for("succeeded")
        with daemon.client() as client:
            later = submit(client, shell("exit 0"))
        window.page.wait_for_selector(f"#job-{later}")
