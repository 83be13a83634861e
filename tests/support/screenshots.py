"""The screenshots of the README: `python -m tests.support.screenshots MINUTES` makes them from a demonstration.

Owns the demonstration: a build as a workflow, trainings that report their progress, and jobs that ended in different
ways, on a daemon of its own. It runs so long, so that the charts of the last hour have something to show. The pictures
show what is real, so they differ a little from run to run.
"""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support import chromium
from tests.support.daemon import DaemonProcess
from tests.support.facts import until
from tests.support.flows import sent_flow, step, step_states
from tests.support.web_page import WebPageProcess
from tests.support.work import end_of, shell, submit

if TYPE_CHECKING:
    import stoker

IMAGES = Path(__file__).parents[2] / "docs" / "images"
WIDTH, HEIGHT = 1200, 860
SETTINGS = """
[daemon]
max_running = 6
[queues.gpu]
max_running = 2
[queues.render]
max_running = 3
"""
TRAINING = 'systemd-notify --status="epoch $EPOCH, loss $LOSS" X_STOKER_PROGRESS=$EPOCH; exec sleep 600'
BUILD = {
    "fetch": step("exit 0"),
    "lint": step("exit 0", "fetch"),
    "compile": step("exit 0", "fetch", each=["core", "cli", "web"]),
    "unit-tests": step("exit 0", "compile"),
    "system-tests": step("exec sleep 600", "compile"),
    "package": step("exit 0", "unit-tests", "system-tests", "lint"),
    "publish": step("exit 0", "package"),
    "alert": step("exit 0", "system-tests", when="any_failed"),
}


def named(name: str, script: str, **options: Any) -> dict[str, Any]:
    return {**shell(script), "name": name, "working_dir": "/", **options}


def demonstrate(client: stoker.Client) -> int:
    """The id of a workflow that runs, among other jobs."""
    for name, script in (
        ("backup-home", "exit 0"),
        ("backup-mail", "echo 'mail.example.org: connection refused' >&2; exit 11"),
        ("rotate-logs", "exit 0"),
        ("render-report", "kill -SEGV $$"),
    ):
        end_of(client, submit(client, named(name, script)))
    trainings = [
        named("train-small", TRAINING, queue="gpu", notify=True, env={"EPOCH": "72", "LOSS": "0.31"}),
        named("train-large", TRAINING, queue="gpu", notify=True, env={"EPOCH": "18", "LOSS": "1.27"}),
    ]
    reporting = [submit(client, training) for training in trainings]
    for number in range(3):
        submit(client, named(f"train-variant-{number}", "exit 0", queue="gpu"))
    flow = sent_flow(client, BUILD, name="release")
    until(lambda: step_states(client, flow)["unit-tests"] == "succeeded")
    until(lambda: step_states(client, flow)["system-tests"] == "running")
    until(lambda: all(client.get(job)["progress"] for job in reporting))
    return flow


def keep_busy(client: stoker.Client, minutes: float) -> None:
    """Short jobs that come and go."""
    end = time.monotonic() + 60 * minutes
    for number in itertools.count():
        if time.monotonic() > end:
            return
        script = f"sleep {2 + number % 7}"
        jobs = [submit(client, named("thumbnails", script, queue="render")) for _ in range(1 + number % 6)]
        for job in jobs:
            end_of(client, job)


def make(images: Path, minutes: float) -> None:
    images.mkdir(exist_ok=True)
    with (
        DaemonProcess(SETTINGS) as daemon,
        daemon.client() as client,
        WebPageProcess(daemon) as web,
        chromium.chromium() as browser,
    ):
        keep_busy(client, minutes)
        flow = demonstrate(client)
        for name, path in (("web-overview", "/"), ("web-workflow", f"/workflows/{flow}")):
            with chromium.window(browser, web, width=WIDTH, height=HEIGHT) as window:
                window.open(path)
                window.page.wait_for_function("document.querySelector('relative-time time[title]')")
                window.page.screenshot(path=images / f"{name}.png")


if __name__ == "__main__":
    make(IMAGES, float(sys.argv[1]))
