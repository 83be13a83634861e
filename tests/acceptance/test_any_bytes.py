"""Names that are not UTF-8: from the shell through the database and a restart to the worker, byte for byte."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.errors import InvalidParams
from tests.support.daemon import DaemonProcess
from tests.support.facts import until
from tests.support.work import end_of, shell, submit

if TYPE_CHECKING:
    from pathlib import Path

BYTES = b"caf\xe9 \xff\xfe"
IN_BASE64 = {"base64": "Y2Fm6SD//g=="}
# Prints its directory, its arguments and a variable as they are, with newlines between.
SCRIPT = b'#!/bin/sh\npwd; printf "%s\\n" "$0" "$@" "$NAME"\n'


@pytest.fixture
def folder(tmp_path: Path) -> bytes:
    """A directory whose name is not UTF-8, with a program of such a name in it."""
    folder = tmp_path / os.fsdecode(BYTES)
    folder.mkdir()
    tool = folder / os.fsdecode(b"tool-" + BYTES)
    tool.write_bytes(SCRIPT)
    tool.chmod(0o755)
    return os.fsencode(folder)


def stoker(daemon: DaemonProcess, folder: bytes, *arguments: bytes | str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [daemon.programs / "stoker", "--socket", daemon.socket, *arguments],
        env=daemon.environ, cwd=folder, capture_output=True, timeout=60, check=False,
    )  # fmt: skip


def test_run_when_names_are_not_utf8_then_the_worker_gets_every_byte(shared: DaemonProcess, folder: bytes) -> None:
    tool = b"./tool-" + BYTES

    ran = stoker(shared, folder, "run", "--env", b"NAME=" + BYTES, "--", tool, BYTES, "ä")

    assert (ran.returncode, ran.stderr) == (0, b"")
    assert ran.stdout == b"\n".join((folder, tool, BYTES, "ä".encode(), BYTES)) + b"\n"


def test_names_when_the_locale_has_another_encoding_then_every_byte_is_carried(tmp_path: Path, folder: bytes) -> None:
    """Python would read names as ASCII: without UTF-8 mode neither program could name these files."""
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    awaited = tmp_path / "ö"
    with DaemonProcess(environ=ascii_only) as daemon, daemon.client() as client:
        job = submit(client, shell("exit 0", wait_for=f"file:{awaited}"))
        until(lambda: "does not exist" in client.why(job)["message"])
        ran = stoker(daemon, folder, "run", "--", b"./tool-" + BYTES, "ä")
        awaited.mkdir()
        end = end_of(client, job)

    assert (ran.returncode, ran.stderr) == (0, b"")
    assert ran.stdout == b"\n".join((folder, b"./tool-" + BYTES, "ä".encode(), b"")) + b"\n"
    assert end == ("succeeded", "exit")


def test_daemon_when_its_own_variables_are_not_utf8_then_the_worker_gets_every_byte() -> None:
    text, search = os.fsdecode(BYTES), f"/none/{os.fsdecode(BYTES)}:/bin:/usr/bin"
    with DaemonProcess(environ={"LOGNAME": text, "PATH": search}) as named, named.client() as client:
        job = submit(client, shell('printf "%s\\n" "$LOGNAME" "$PATH"'))
        end, log = end_of(client, job), b"".join(client.logs(job))

    assert end == ("succeeded", "exit")
    assert log == BYTES + b"\n" + os.fsencode(search) + b"\n"


@pytest.mark.parametrize("limits", [(), ("--limit", "open-files=64")], ids=["spawn", "fork"])
def test_job_when_the_daemon_starts_again_before_it_runs_then_its_bytes_are_kept(
    shared: DaemonProcess, folder: bytes, limits: tuple[str, ...]
) -> None:
    stoker(shared, folder, "queue", "pause", "default")
    job = stoker(shared, folder, "submit", *limits, "--", b"./tool-" + BYTES, BYTES).stdout.strip().decode()
    shown = stoker(shared, folder, "show", job).stdout.decode()
    listed = stoker(shared, folder, "ls").stdout.decode()
    view: dict[str, Any] = json.loads(stoker(shared, folder, "show", job, "--json").stdout)
    shared.kill_and_start()
    stoker(shared, folder, "queue", "resume", "default")
    waited = stoker(shared, folder, "wait", job)
    logs = stoker(shared, folder, "logs", job).stdout

    assert view["args"] == [IN_BASE64]
    assert r"$'caf\xe9 \xff\xfe'" in shown
    assert r"$'./tool-caf\xe9 \xff\xfe' $'caf\xe9 \xff\xfe'" in listed
    assert (waited.returncode, waited.stderr) == (0, b"")
    assert logs == b"\n".join((folder, b"./tool-" + BYTES, BYTES, b"")) + b"\n"


def test_submit_when_a_missing_program_has_such_a_name_then_the_message_is_text(
    shared: DaemonProcess, folder: bytes
) -> None:
    refused = stoker(shared, folder, "submit", "--", b"./none-" + BYTES)

    assert refused.returncode == 65
    assert refused.stderr.startswith(rb"stoker: COMMAND: ./none-caf\xe9 \xff\xfe does not exist")


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"args": [{"base64": "no base64"}]}, "args[0]"),
        ({"args": [{"base64": "AA=="}]}, "args[0]"),
        ({"args": [{"bytes": "eA=="}]}, "args[0].bytes"),
        ({"env": {"NAME": {"base64": "?"}}}, "env.NAME"),
        ({"command": {"base64": ""}}, "command"),
        ({"working_dir": {"base64": "eA=="}}, "working_dir"),
    ],
)
def test_submit_when_bytes_are_wrong_then_the_field_is_named(
    shared: DaemonProcess, fields: dict[str, Any], path: str
) -> None:
    with shared.client() as client, pytest.raises(InvalidParams) as refused:
        client.call("job.submit", {"command": "/bin/true", **fields})

    assert refused.value.details["path"] == path


def test_workflow_when_a_step_has_bytes_for_arguments_then_they_reach_it(shared: DaemonProcess) -> None:
    text = os.fsdecode(BYTES)
    steps = {
        "a": {"command": "printf", "args": ["%s", text]},
        "b": {"command": "sh", "args": ["-c", 'printf %s "$NAME"']},
    }
    with shared.client() as client:
        sent = client.submit_workflow({"name": "x", "defaults": {"env": {"NAME": text}}, "steps": steps})
        jobs = [job for job in sent["steps"].values() if job is not None]
        assert {end_of(client, job) for job in jobs} == {("succeeded", "exit")}
        assert [b"".join(client.logs(job)) for job in jobs] == [BYTES, BYTES]


@pytest.mark.parametrize("argument", ["{", '{"base64": "eA=="}', '"quoted"'])
def test_command_when_it_looks_like_the_form_of_bytes_then_it_is_taken_as_it_is(
    shared: DaemonProcess, tmp_path: Path, argument: str
) -> None:
    tool = tmp_path / argument
    tool.write_bytes(SCRIPT)
    tool.chmod(0o755)
    with shared.client() as client:
        job = submit(client, {"command": argument, "args": [argument], "env": {"PATH": f"{tmp_path}:/bin:/usr/bin"}})
        assert end_of(client, job) == ("succeeded", "exit")
        assert client.get(job)["command"] == argument
        assert b"".join(client.logs(job)).decode().splitlines()[2] == argument
