"""The canary: a secret goes through a whole life, with crashes, and is then searched for in all that the daemon left.

One daemon for the module, as the life is the test: each part adds places in which the value could be found.
"""

from __future__ import annotations

import gzip
import json
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.facts import until
from tests.support.journals import journaled
from tests.support.web_page import WebPageProcess
from tests.support.work import end_of, job_view, shell, state, submit, submit_running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.daemon import DaemonProcess
    from tests.support.work import Gate

from base64 import b64encode


def spellings(canary: str) -> list[bytes]:
    """The ways in which the value may stand in a file."""
    text = canary.encode()
    return [text, b64encode(text).rstrip(b"=")[:-1], text.hex().encode()]


def found_in(directory: Path, wanted: list[bytes]) -> list[str]:
    """The files that have the value, also in the unused room of a database. Those of other daemons come and go."""
    found = []
    for path in (Path(above, name) for above, _, names in os.walk(directory) for name in names):
        if path.is_file() and not path.is_symlink():
            data = _read(path)
            data += gzip.decompress(data) if data[:2] == b"\x1f\x8b" else b""
            found += [str(path)] if any(text in data for text in wanted) else []
    return found


def found_in_processes(wanted: list[bytes]) -> list[str]:
    """The processes of this machine whose command line or environment has the value."""
    return [str(path) for path in _about_processes() if any(text in _read(path) for text in wanted)]


def _about_processes() -> Iterator[Path]:
    for process in Path("/proc").glob("[0-9]*"):
        yield from (process / "cmdline", process / "environ")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it is gone, or of another user
        return b""


def test_secret_when_its_job_had_a_whole_life_then_its_value_is_nowhere(daemon: DaemonProcess, gate: Gate) -> None:
    canary = f"canary-{secrets.token_hex(16)}"
    wanted = spellings(canary)
    own = {"TOKEN": {"base64": b64encode(canary.encode()).decode()}}
    proof = gate.path.with_name("proof")
    place = gate.path.with_name("place")
    script = f'cat "$STOKER_SECRETS_DIR/TOKEN" >> {proof}; echo "$STOKER_SECRETS_DIR" >> {place}; '

    with daemon.client() as client:
        failing = submit(client, shell(script + "exit 3"), secrets=own, max_attempts=2, base_delay_ms=1)
        assert end_of(client, failing) == ("failed", "exit")
        client.call("job.retry", {"id": failing})
        until(lambda: state(client, failing) == "failed" and job_view(client, failing)["attempts"] == 4)
        done = submit(client, shell(script), secrets=own, idempotency_key="once")
        assert end_of(client, done) == ("succeeded", "exit")
        assert client.call("job.submit", {**shell(script), "secrets": own, "idempotency_key": "once"})["existing"]
        running = submit_running(client, gate.spec(f"{script} sleep 0"), secrets=own, on_orphan="requeue", survive=True)
        assert daemon.cli("backup").returncode == 0
    held_files = found_in(Path("/dev/shm"), wanted)
    assert len(held_files) == 1, "only the job that runs has its file"
    assert found_in_processes(wanted) == []
    daemon.kill_and_start()
    assert found_in(Path("/dev/shm"), wanted) == held_files, "the job lives on, and so does its file"
    gate.open()

    with daemon.client() as client, WebPageProcess(daemon) as page, page.browser() as browser:
        assert end_of(client, running) == ("succeeded", "exit")
        client.call("job.retry", {"id": done})
        until(lambda: state(client, done) == "held")
        shown = [
            *(browser.get(f"/jobs/{job}") for job in (failing, done, running)),
            *(json.dumps(client.call(method, {"id": done})) for method in ("job.get", "job.history", "job.why")),
            daemon.cli("show", str(failing), "--json").stdout,
            daemon.cli("history", str(failing), "--json").stdout,
            daemon.cli("env", str(failing)).stdout,
        ]
        journaled(daemon)
        view = job_view(client, done)
    assert (view["reason"], view["secrets"]) == ("secrets", ["TOKEN"])
    assert proof.read_text() == canary * 6, "each attempt could read it"
    assert not any(Path(line).exists() for line in place.read_text().split("\n") if line)
    assert not any(canary in text or wanted[1].decode() in text for text in shown)
    assert daemon.cli("backup").returncode == 0
    assert found_in(daemon.home, wanted) == []
    assert found_in(Path("/dev/shm"), wanted) == []
    assert daemon.rows("SELECT DISTINCT job_id FROM secrets") == [(failing,)]


def test_secret_when_it_differs_under_the_same_key_then_the_submit_is_refused(shared: DaemonProcess) -> None:
    for value, status in (("one", 0), ("one", 0), ("two", 65)):
        answer = shared.cli("submit", "--secret", "A=-", "--idempotency-key", "k", "--", "true", input=value)
        assert answer.returncode == status, answer.stderr
        assert value not in answer.stderr


def test_variable_when_its_name_is_that_of_a_secret_then_its_value_is_not_shown(shared: DaemonProcess) -> None:
    env = {"MY_API_KEY": "CANARY", "github_token": "CANARY", "MODE": "fast"}
    with shared.client() as client:
        job = submit(client, shell('test "${#MY_API_KEY}" = 6'), env=env)
        assert end_of(client, job) == ("succeeded", "exit")
        client.call("schedule.add", {"name": "s", "timing": "@yearly", "job": {**shell(":"), "env": env}})
        shown = [client.call("job.get", {"id": job}), client.call("job.history", {"id": job})]
        shown.append(client.call("schedule.get", {"name": "s"}))
        assert client.call("job.environment", {"id": job})["env"]["MY_API_KEY"] == "CANARY", "a shell needs it"
    for view in shown:
        assert "CANARY" not in json.dumps(view)
        assert "(hidden)" in json.dumps(view)
        assert "fast" in json.dumps(view)


def test_secrets_when_their_job_is_purged_then_their_rows_are_gone(shared: DaemonProcess) -> None:
    with shared.client() as client:
        job = submit(client, shell("exit 1"), secrets={"A": {"base64": "AAAA"}})
        end_of(client, job)
        assert shared.rows("SELECT name FROM secrets WHERE job_id = ?", job) == [("A",)]
        asked = {"before": job_view(client, job)["finished_at"] + 1}
        until(lambda: client.call("system.purge", asked)["jobs"])
    assert shared.rows("SELECT name FROM secrets WHERE job_id = ?", job) == []
