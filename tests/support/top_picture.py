"""Makes docs/images/top.svg, the picture of `stoker top`: `python -m tests.support.top_picture`.

Owns the jobs of the picture; a real daemon runs them. Only times and the load of the host differ from one picture to
the next.
"""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support import work
from tests.support.daemon import DaemonProcess
from tests.support.screens import opened

if TYPE_CHECKING:
    import stoker

PICTURE = Path(__file__).parents[2] / "docs" / "images" / "top.svg"
COLUMNS, LINES = 120, 26
SETTINGS = "[daemon]\nmax_running = 4\n[cpu]\nthrottle_threshold = 100\n[memory]\nthrottle_threshold = 100\n"
WEB_FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)  # a picture in a page may load nothing
HOUR_MS = 3_600_000
PROGRESS = 'systemd-notify --status="epoch 7 of 12" X_STOKER_PROGRESS=58; sleep 1000'


def demo_jobs(client: stoker.Client) -> list[int]:
    """The jobs that run; others wait, are held, or have failed."""
    for queue in (
        {"name": "bulk", "class": "low", "max_running": 1},
        {"name": "gpu", "max_running": 1},
        {"name": "mail"},
    ):
        client.call("queue.set", queue)
    client.call("queue.pause", {"name": "mail"})
    running = [
        work.submit(client, work.shell(PROGRESS, name="train", queue="gpu", notify=True, priority=5)),
        work.submit(client, work.shell("sleep 1000", name="nightly-backup", max_attempts=3)),
        work.submit(client, work.shell("sleep 1000", name="thumbnails", queue="bulk")),
    ]
    for number in range(1, 5):
        work.submit(client, work.shell("sleep 1000", name=f"thumbnails-{number}", queue="bulk"))
    work.submit(client, work.shell("sleep 1000", name="evaluate", queue="gpu", needs=[running[0]]))
    held: dict[str, Any] = work.shell("./deploy.sh", name="deploy", run_at=time.time_ns() // 1_000_000 + HOUR_MS)
    client.call("job.hold", {"id": work.submit(client, held), "reason": "ask Ada first"})
    work.submit(client, work.shell("./report.sh", name="report", wait_for="event:month-closed"))
    work.submit(client, work.shell("mail -s report", name="send-report", queue="mail"))
    return running


async def picture(daemon: DaemonProcess) -> str:
    async with opened(daemon, COLUMNS, LINES) as screen:
        await screen.until("train", "58%", "thumbnails-4", "send-report", "event:month")
        await screen.press("home", "down")
        await screen.pilot.pause()
        return WEB_FONTS.sub("", screen.app.export_screenshot(title="stoker top"))


def main() -> None:
    with DaemonProcess(SETTINGS) as daemon, daemon.client() as client:
        work.running(client, *demo_jobs(client))
        PICTURE.write_text(asyncio.run(picture(daemon)), encoding="utf-8")


if __name__ == "__main__":
    main()
