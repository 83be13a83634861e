"""A state that a daemon left, to be damaged and examined."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stoker.store import changes, instance
from stoker.store.database import open_unchanged
from stoker.store.directory import Aside, StateDirectory
from stoker.store.migrate import schema_of
from tests.support.daemon import DaemonProcess
from tests.support.examined import is_journaled
from tests.support.facts import until
from tests.support.flows import flow_end, sent_flow, step
from tests.support.work import Gate, end_of, shell, submit, submit_running

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state with ended, failed, waiting and running jobs, a workflow and a schedule. Its daemon was killed."""
    gate = Gate(tmp_path_factory.mktemp("gate") / "gate")
    with DaemonProcess() as daemon:
        with daemon.client() as client:
            end_of(client, submit(client, shell("echo hello"), idempotency_key="k"))  # job 1
            end_of(client, submit(client, shell("exit 3"), max_attempts=2, base_delay_ms=1))  # job 2
            flow_end(client, sent_flow(client, {"a": step("exit 0"), "b": step("exit 0", "a")}))  # jobs 3 and 4
            client.call("resource.set", {"name": "gpu", "capacity": 1})
            client.call("rate.set", {"key": "api", "rate": "1000/s"})
            client.call("queue.set", {"name": "bulk", "class": "low", "max_running": 2, "defaults": {"nice": 3}})
            for name in ("kept", "gone"):
                client.call("schedule.add", {"name": name, "timing": "@yearly", "job": shell("exit 0")})
            client.call("schedule.remove", {"name": "gone"})
            needed = submit_running(client, gate.spec(), resources={"gpu": 1})  # job 5
            submit(client, shell("exit 0"), needs=[{"job": needed}], grace_ms=5_000)  # job 6
            until(lambda: is_journaled(daemon.state_dir), why="the journal has every row")
        daemon.kill9()
        yield daemon.state_dir
        gate.open()


@pytest.fixture
def state(original: Path, tmp_path: Path) -> Path:
    """A copy of that state, to be damaged. `state.json` is as new as the daemon writes it now and then."""
    root = tmp_path / "state"
    shutil.copytree(original, root, ignore=lambda *_: {"launchers"})
    root.chmod(0o700)
    with open_unchanged(root / "stoker.db") as connection:
        aside = Aside(instance.own_id(connection), schema_of(connection), changes.last(connection)[0])
    StateDirectory(root).write_aside(aside)
    return root
