"""The page of one job, and what may be done from it."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.support.work import Gate, end_of, shell, submit, submit_running

if TYPE_CHECKING:
    import stoker
    from tests.support.web_page import Browser

SETTINGS = "[queues.stopped]\npaused = true\n"
MARKUP = "<script>alert(1)</script>\N{RIGHT-TO-LEFT OVERRIDE}"


def test_job_when_it_failed_then_its_page_says_why_and_retries_it(client: stoker.Client, browser: Browser) -> None:
    job = submit(client, shell("exit 7"))
    end_of(client, job)
    assert "exited with 7" in browser.get(f"/jobs/{job}")

    browser.post(f"/jobs/{job}/retry", reason="once more")

    assert "once more" in [change["note"] for change in client.history(job)["changes"]]


def test_job_when_it_was_tried_then_its_page_has_attempts_limits_and_history(
    client: stoker.Client, browser: Browser
) -> None:
    spec = shell("echo said; exit 3", limits={"open_files": 100}, max_attempts=2, base_delay_ms=1)
    job = submit(client, spec)
    end_of(client, job)
    client.call("job.retry", {"id": job, "reason": "by hand"})
    end_of(client, job)

    page = browser.get(f"/jobs/{job}")
    changes = browser.get(f"/jobs/{job}/history")

    assert page.count('<tr id="attempt-') == 4
    assert page.count(">exit 3<") == 4
    assert '<th scope="row">open-files</th><td>100</td><td>100</td><td>rlimit</td>' in page
    assert '<div class="line">said</div>' in page
    for text in ("by hand", f"uid {os.getuid()}"):
        assert text in page
        assert text in changes


def test_job_when_its_queue_is_paused_then_its_page_leads_to_the_queue(client: stoker.Client, browser: Browser) -> None:
    job = submit(client, shell("exit 0"), queue="stopped", name="nightly export")

    page = browser.get(f"/jobs/{job}")

    assert "<bdi>nightly export</bdi></strong>" in page
    assert 'href="/queues/stopped"' in page
    assert "/queues/stopped/resume" in browser.get("/queues/stopped")


def test_job_when_it_needs_another_then_their_pages_lead_to_each_other(client: stoker.Client, browser: Browser) -> None:
    first = submit(client, shell("exit 0"), queue="stopped")
    second = submit(client, shell("exit 0"), needs=[first])

    assert f'needs job <a href="/jobs/{first}">' in browser.get(f"/jobs/{second}")
    assert f'job <a href="/jobs/{second}">{second}</a> waits for it' in browser.get(f"/jobs/{first}")


def test_job_when_its_words_are_markup_then_they_are_text(client: stoker.Client, browser: Browser) -> None:
    job = submit(client, shell("exit 0", queue="stopped", name=MARKUP, labels={"a": MARKUP}), args=[MARKUP])

    for path in (f"/jobs/{job}", "/jobs", f"/jobs/{job}/cancel", f"/jobs/chosen?act=job.hold&id={job}"):
        page = browser.get(path)
        assert "alert(1)" in page
        assert "<script>alert" not in page
        assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in page


def test_job_when_it_ends_then_an_open_page_shows_it(client: stoker.Client, browser: Browser, gate: Gate) -> None:
    job = submit_running(client, gate.spec("exit 4"))
    with closing(browser.shows(f"/jobs/{job}")) as shows:
        first = next(shows)
        gate.open()
        last = next(shown for shown in shows if "state-failed" in shown)

    assert "running, pid" in first
    assert "exit 4" in last


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/jobs/0", 400, "job: &#39;0&#39; is no id"),
        ("/jobs/x/log", 400, "job: &#39;x&#39; is no id"),
        ("/jobs/9223372036854775808", 400, "is no id"),
        ("/jobs/99999999", 404, "there is no job 99999999"),
        ("/jobs/99999999/log", 404, "there is no job 99999999"),
        ("/jobs/99999999/history", 404, "there is no job 99999999"),
        ("/jobs/99999999/log/stream", 404, "there is no job 99999999"),
        ("/jobs/99999999/log/search?find=x", 404, "there is no job 99999999"),
    ],
)
def test_job_when_its_id_is_bad_then_the_page_names_the_mistake(
    browser: Browser, path: str, status: int, words: str
) -> None:
    assert words in browser.get(path, status)
