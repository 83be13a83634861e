"""The doctor: an examination of the state, the files and the host, and what it finds.

Owns the examination, which `stoker doctor` makes as a process of its own: it may take a minute and reads files, which
neither this server nor the daemon does for a browser. One runs at a time; its result stays until the next one.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from stoker.cli.pages.actions import sent_form
from stoker.cli.pages.endpoints import Endpoint, Parts
from stoker.cli.pages.page import Asked, Page
from stoker.cli.pages.tasks import start_task
from stoker.core.errors import NotAllowed
from stoker.rpc.async_client import AsyncClient

if TYPE_CHECKING:
    from stoker.core.daemon_views import DoctorView

COMMAND: Final = (sys.executable, "-c", "from stoker.cli.main import main; main()", "doctor", "--json", "--quiet")
LONGEST_S: Final = 600.0
ADDRESS: Final = "/doctor"


class HostExamination:
    """The examination that runs, and the newest result. `failure`: why the newest one has none."""

    def __init__(self) -> None:
        self.since: int | None = None
        self.ended_at: int | None = None
        self.view: DoctorView | None = None
        self.failure: str | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self, socket: str) -> None:
        """Raises NotAllowed while one runs."""
        if self.since is not None:
            raise NotAllowed("an examination runs already", hint=f"its result comes on {ADDRESS}")
        self.since = _now_ms()
        self._task = start_task(self._run(socket))

    async def _run(self, socket: str) -> None:
        try:
            status, output, messages = await _doctor(socket)
            self.view = json.loads(output) if output.strip() else None  # with findings, too, it ends with an error
            self.failure = None if self.view else (messages or f"it ended with exit code {status}")
        except TimeoutError:
            self.view, self.failure = None, f"it took longer than {LONGEST_S:g} s; in a terminal: stoker doctor"
        finally:
            self.since, self.ended_at = None, _now_ms()


async def _doctor(socket: str) -> tuple[int | None, bytes, str]:
    """Exit status, stdout and stderr. The process never outlives the call."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "--socket", socket, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(LONGEST_S):
            output, messages = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, output, messages.decode(errors="replace").strip()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@cache
def examination() -> HostExamination:
    """The one of this server."""
    return HostExamination()


async def read(_client: AsyncClient, _asked: Asked) -> Mapping[str, Any]:
    one = examination()
    checks = one.view["checks"] if one.view else []
    return {
        "examination": one,
        "found": [check for check in checks if check["findings"]],
        "not_made": [check for check in checks if check["result"] == "not made"],
        "well": sum(check["result"] == "ok" for check in checks),
    }


async def run(parts: Parts, request: Request, asked: Asked) -> Response:
    if request.method == "POST":
        await sent_form(request)
        examination().start(parts.client.socket_path)
        return RedirectResponse(ADDRESS, status_code=303)
    return HTMLResponse(parts.pages.plain("doctor_run.html", asked, csrf=parts.access.csrf(request.state.user)))


PAGES = (Page(ADDRESS, "doctor.html", read, concerns=lambda _change, _asked: False, every_s=1.0),)
ENDPOINTS = (Endpoint(f"{ADDRESS}/run", run, ("GET", "POST")),)
