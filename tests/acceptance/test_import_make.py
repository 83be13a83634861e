"""A C project that is built by `make`, and by the import of its makefile while the daemon is killed in each phase. Once
built, it is edited and built again, with all that is up to date taken over.

Owns the comparison of both results, file by file. The compiler waits at a gate of its own for each file that it makes,
so that a kill always comes while a step of the phase runs.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import flows
from tests.support.daemon import DaemonProcess
from tests.support.facts import until

PROJECT = Path(__file__).parent / "wordcount"
# A step that is held in each phase: the tool for a header, an object of the library, one of the program, the link.
PHASES = {
    "build-generate": "generate",
    "build-table.o": "table.o",
    "build-main.o": "main.o",
    "build-wordcount": "wordcount",
}
COMPILER = """#!/bin/sh
for word; do [ "$last" != -o ] || made=${word##*/}; last=$word; done
while [ -e "$HOLD/$made" ]; do : > "$HOLD/$made.waits"; sleep 0.05; done
exec cc "$@"
"""


def built(folder: Path) -> dict[str, bytes]:
    """Everything that a build made."""
    return {path.name: path.read_bytes() for path in (folder / "build").iterdir()}


def reused(daemon: DaemonProcess, flow: Path) -> dict[str, str]:
    """Run the flow again, with all that is up to date taken over: the reason of each end."""
    workflow = int(daemon.cli("workflow", "submit", "--reuse", "latest", str(flow)).stdout)
    with daemon.client() as client:
        assert flows.flow_end(client, workflow) == "succeeded"
        return {step["name"]: step["reason"] for step in flows.workflow_view(client, workflow)["steps"]}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "wordcount"
    shutil.copytree(PROJECT, folder)
    return folder


def test_import_when_daemon_is_killed_in_each_phase_then_the_build_is_that_of_make(
    daemon: DaemonProcess, project: Path, tmp_path: Path
) -> None:
    hold, compiler, flow = tmp_path / "hold", tmp_path / "cc", tmp_path / "wordcount.toml"
    compiler.write_text(COMPILER.replace("$HOLD", str(hold)))
    compiler.chmod(0o755)
    environ = {**daemon.client_environ, "CC": str(compiler)}
    subprocess.run(["make", "-s", "-C", project], env=environ, check=True)
    by_make = built(project)
    subprocess.run(["make", "-s", "-C", project, "clean"], check=True)
    hold.mkdir()
    for name in PHASES.values():
        (hold / name).touch()

    command = ["stoker", "workflow", "import", "--from", "make", str(project / "Makefile"), "-o", str(flow)]
    subprocess.run([daemon.programs / command[0], *command[1:]], env=environ, check=True)
    workflow = int(daemon.cli("workflow", "submit", str(flow)).stdout)
    for step, name in PHASES.items():
        # Not the state "running": it is committed before the compiler is started.
        until((hold / f"{name}.waits").exists, why=step)
        daemon.kill_and_start()
        (hold / name).unlink()

    with daemon.client() as client:
        assert flows.flow_end(client, workflow) == "succeeded"
    assert built(project) == by_make
    reused(daemon, flow)  # the files of steps that a kill interrupted were not recorded: these run once more
    with (project / "src" / "print.c").open("a") as source:
        source.write("/* edited */\n")
    reasons = reused(daemon, flow)
    assert {name for name, why in reasons.items() if why != "reused"} == {"build-print.o", "build-wordcount", "check"}
    assert by_make["counted.txt"].startswith(b"wordcount 1.4 by make, at least 2\n")
