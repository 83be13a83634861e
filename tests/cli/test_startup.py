"""The modules that one `stoker submit` loads: slow ones must not be among them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import stoker

if TYPE_CHECKING:
    from tests.cli.conftest import Desk
    from tests.support.daemon import DaemonProcess

SOURCE = str(Path(stoker.__file__).parent.parent)
# Each of these costs at least a twentieth of a bare start of Python.
TOO_HEAVY = {
    "argparse", "asyncio", "datetime", "difflib", "importlib.metadata", "inspect", "logging", "msgspec", "psutil",
    "shlex", "shutil", "structlog", "subprocess", "tempfile", "threading", "traceback", "typing", "uuid", "uvloop",
}  # fmt: skip
SAVE = f'printf 1 | {sys.executable} -I -S -c "$PROGRAM" checkpoint save'
OF_OTHER_COMMANDS = {
    "batch", "follow", "jobs", "status", "queues", "settings", "completion", "top", "control", "outcome", "workflows",
    "graph",
}  # fmt: skip

PROGRAM = f"""
import sys
sys.path.insert(0, {SOURCE!r})
from stoker.cli import main
status = main.guarded(sys.argv[1:])
print(*sys.modules)
sys.exit(status)
"""


def test_submit_when_it_ran_then_nothing_heavy_was_loaded(desk: Desk) -> None:
    # -S: an editable install's own import hook would be counted otherwise.
    command = [sys.executable, "-I", "-S", "-c", PROGRAM, "--socket", desk.socket, "submit", "--", "true"]

    done = subprocess.run(command, capture_output=True, text=True, check=True)

    job, modules = done.stdout.splitlines()
    loaded = set(modules.split())
    assert job == "1"
    assert "stoker.rpc.client" in loaded
    assert loaded & TOO_HEAVY == set()
    assert loaded & {f"stoker.cli.{name}" for name in OF_OTHER_COMMANDS} == set()


def test_checkpoint_save_when_it_ran_then_it_loaded_little_more_than_a_submit(daemon: DaemonProcess) -> None:
    done = daemon.cli("run", "--env", f"PROGRAM={PROGRAM}", "--", "sh", "-c", SAVE)

    assert (done.returncode, done.stderr) == (0, "")
    checkpoint, modules = done.stdout.splitlines()
    loaded = set(modules.split())
    assert checkpoint == "1"
    assert "stoker.rpc.conversation" in loaded
    assert loaded & TOO_HEAVY == set()
    assert loaded & {f"stoker.cli.{name}" for name in (*OF_OTHER_COMMANDS, "spec")} == set()
    assert "stoker.rpc.client" not in loaded
