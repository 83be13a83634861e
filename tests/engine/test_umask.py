"""The file mode creation mask of workers: the submitter's, an explicit one, else the daemon's original."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.flows import job_of
from tests.support.work import end_of, shell, submit

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.daemon import DaemonProcess


def test_umask_when_that_of_the_daemon_is_private_then_a_job_has_its_submitters(shared: DaemonProcess) -> None:
    stoker = f"{shared.programs}/stoker"
    newest = f"$({stoker} ls --ids --all | sort -n | tail -n 1)"
    command = f"umask 027; {stoker} run -- sh -c umask; {stoker} show {newest} | grep ^umask"

    ran = subprocess.run(["sh", "-c", command], env=shared.client_environ, capture_output=True, text=True, check=True)

    assert ran.stdout.split() == ["0027", "umask", "027"]


@pytest.mark.parametrize(("more", "printed"), [([], "0022\n"), (["--limit", "open-files=64"], "0022\n")])
def test_umask_when_it_is_an_option_then_it_wins_on_each_route(
    shared: DaemonProcess, more: list[str], printed: str
) -> None:
    assert shared.cli("run", "--umask", "022", *more, "--", "sh", "-c", "umask").stdout == printed


def test_umask_when_a_client_sends_no_umask_then_it_is_the_daemons_original(stopped_daemon: DaemonProcess) -> None:
    before = os.umask(0o026)
    try:
        stopped_daemon.start()
    finally:
        os.umask(before)
    with stopped_daemon.client() as client:
        job = submit(client, shell("umask"))
        end_of(client, job)
        assert b"".join(client.logs(job)) == b"0026\n"


def test_umask_when_a_flow_is_submitted_then_steps_have_it_or_their_own(shared: DaemonProcess, tmp_path: Path) -> None:
    flow = tmp_path / "flow.toml"
    flow.write_text(
        'name = "masks"\n[steps.a]\ncommand = "sh"\nargs = ["-c", "umask"]\n'
        '[steps.b]\nneeds = ["a"]\numask = 0o007\ncommand = "sh"\nargs = ["-c", "umask"]\n'
    )

    workflow = int(shared.cli("workflow", "submit", "--wait", str(flow), umask=0o023).stdout)

    with shared.client() as client:
        logs = [b"".join(client.logs(job_of(client, workflow, step))) for step in ("a", "b")]
    assert logs == [b"0023\n", b"0007\n"]


@pytest.mark.parametrize("mode", ["", "8", "1777", "u=rwx", "00000"])
def test_umask_when_it_is_no_mode_then_nothing_is_submitted(shared: DaemonProcess, mode: str) -> None:
    before = shared.cli("ls", "--ids").stdout
    refused = shared.cli("submit", "--umask", mode, "--", "true")

    assert refused.returncode == 64
    assert "022" in refused.stderr
    assert shared.cli("ls", "--ids").stdout == before
