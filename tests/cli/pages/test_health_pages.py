"""Health, settings, backups, and what a start of the daemon found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.web_page import WebPageProcess
from tests.support.work import submit_running

if TYPE_CHECKING:
    from tests.support.daemon import DaemonProcess
    from tests.support.web_page import Browser
    from tests.support.work import Gate

SETTINGS = """
[daemon]
max_running = 3
[otel]
endpoint = "http://me:otel-password@localhost:4318"
[hooks.mail]
on = ["job.failed"]
command = "/bin/true"
env = { PASSWORD = "hook-password" }
"""


def test_health_when_it_is_shown_then_settings_are_there_and_secrets_are_not(browser: Browser) -> None:
    page = browser.get("/health")

    own = page.partition("Those that are set")[2].partition("<details")[0]
    assert "daemon.max_running" in own
    assert "//…@localhost:4318" in own
    assert "journal.enabled" in page.partition("<details")[2]
    assert "mail" in page
    assert "otel-password" not in page
    assert "hook-password" not in page
    for check in ("database", "loop", "launcher"):
        assert f"{check}</li>" in page


def test_health_when_the_file_has_changed_then_the_setting_says_what_to_do(
    shared: DaemonProcess, browser: Browser
) -> None:
    before = shared.config.read_text()
    try:
        shared.config.write_text(before.replace("max_running = 3", "max_running = 4"))

        assert "the file differs" in browser.get("/health")

        shared.config.write_text("[daemon]\nmax_runing = 4\n")
        assert "max_runing" in browser.get("/health")
    finally:
        shared.config.write_text(before)


def test_backups_when_one_was_made_then_it_is_listed(shared: DaemonProcess, browser: Browser) -> None:
    made = shared.cli("backup").stdout.strip()

    page = browser.get("/recovery")

    assert made.rpartition("/")[2] in page


def test_recovery_when_the_daemon_was_killed_then_its_report_says_what_it_did(
    daemon: DaemonProcess, gate: Gate
) -> None:
    with daemon.client() as client:
        job = submit_running(client, gate.spec(survive=True))
    daemon.kill_and_start()
    with WebPageProcess(daemon) as web, web.browser() as browser:
        starts = browser.get("/recovery")
        report = browser.get("/recovery/2")

        assert '<a href="/recovery/2">2</a>' in starts
        assert f'<a href="/jobs/{job}">{job}</a>' in report
        assert "<td>adopt</td>" in report


def test_recovery_when_there_is_no_such_start_then_its_id_is_refused(browser: Browser) -> None:
    assert "there is no report of start 99" in browser.get("/recovery/99", status=400)
    assert "is no id" in browser.get("/recovery/first", status=400)
    assert "is no id" in browser.get("/recovery?before=-1", status=400)
