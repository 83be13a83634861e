"""The page of one job, and what may be done from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.work import end_of, shell, submit

if TYPE_CHECKING:
    from tests.support.daemon import DaemonProcess
    from tests.support.web_page import Browser


def test_job_when_it_failed_then_its_page_says_why_and_retries_it(shared: DaemonProcess, browser: Browser) -> None:
    with shared.client() as client:
        job = submit(client, shell("exit 7"))
        end_of(client, job)
        assert "exited with 7" in browser.get(f"/jobs/{job}")

        browser.post(f"/jobs/{job}/retry", reason="once more")

        assert "once more" in [change["note"] for change in client.history(job)["changes"]]
