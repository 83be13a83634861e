"""The page of the doctor: it examines in a process of its own, one at a time, and shows the findings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.facts import until
from tests.support.web_page import WebPageProcess
from tests.support.work import end_of, shell, submit

if TYPE_CHECKING:
    from tests.support.daemon import DaemonProcess
    from tests.support.web_page import Browser


def examined(browser: Browser, finding: str) -> str:
    return until(lambda: page if finding in (page := browser.get("/doctor")) else "")


def test_doctor_when_the_form_is_sent_then_the_page_shows_what_it_found(
    shared: DaemonProcess, browser: Browser
) -> None:
    with shared.client() as client:
        job = submit(client, shell("echo said"))
        end_of(client, job)
        log = client.get(job)["log"]
    assert "No examination has been made" in browser.get("/doctor")

    browser.post("/doctor/run")
    assert ": 0 errors, " in examined(browser, "checks found nothing")

    assert log is not None
    stray = Path(log).parents[1] / "999"
    stray.mkdir()
    (stray / "1.log").write_text("of no job\n")
    browser.post("/doctor/run")
    assert "notice-" in examined(browser, str(stray))


def test_doctor_when_the_page_is_read_only_then_it_does_not_begin(shared: DaemonProcess) -> None:
    with WebPageProcess(shared, "--read-only") as web, web.browser() as browser:
        browser.post("/doctor/run", 403)

        assert "No examination has been made" in browser.get("/doctor")
