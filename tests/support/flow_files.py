"""Flow files: written, and submitted with `stoker workflow submit`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support import flows

if TYPE_CHECKING:
    from tests.support import work
    from tests.support.daemon import DaemonProcess

EXAMPLE = Path(__file__).parents[2] / "config" / "examples" / "flows" / "build.toml"


def written(folder: Path, text: str, name: str = "flow.toml") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def sent(daemon: DaemonProcess, folder: Path, steps: dict[str, dict[str, Any]]) -> str:
    """The id of a workflow that must be accepted."""
    source = written(folder, json.dumps(flows.flow(steps)), "flow.json")
    done = daemon.cli("workflow", "submit", source)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def sent_to(gate: work.Gate, daemon: DaemonProcess, folder: Path) -> str:
    """The id of a workflow whose first step waits at the gate, and whose second needs it."""
    command, *args = gate.pass_by()
    return sent(daemon, folder, {"a": {"command": command, "args": args}, "b": flows.step("true", "a")})


def job_of(daemon: DaemonProcess, workflow: str, step: str) -> str:
    """The id of the job of a step."""
    with daemon.client() as client:
        return str(flows.job_of(client, int(workflow), step))
