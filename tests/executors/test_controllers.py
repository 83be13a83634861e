"""Limits of a cgroup for a whole tree: memory and processes, in a subtree that is delegated as by systemd.

Needs the memory and pids controllers of cgroup v2, which the kernel of a test machine often lacks;
`test_other_kernel.py` runs these tests in another one. The kernel's own counts (memory.events, pids.events) prove that
a limit was met.
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stoker.process.cgroup import is_delegated, read_mounts
from tests.support.daemon import DaemonProcess
from tests.support.facts import until
from tests.support.work import Gate, attempts_of, end_of, running, shell, submit, submit_running

if TYPE_CHECKING:
    from collections.abc import Iterator

    import stoker

MEMORY = 32 << 20
PROCESSES = 12
EATER = "tail /dev/zero"  # tail keeps the last line, and the first has no end
BOMB = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
try:
    while True:
        os.fork()
except OSError:
    print("refused", flush=True)
while True:
    signal.pause()
"""


@pytest.fixture(scope="module")
def delegated() -> Iterator[Path]:
    """A subtree marked as delegated, with this process, and so all that it starts, in a leaf of it."""
    mount = next(read_mounts(Path("/proc/self/mountinfo").read_text()), None)
    if mount is None or not {"memory", "pids"} <= set((mount / "cgroup.controllers").read_text().split()):
        pytest.skip("no memory and pids controllers in cgroup v2 here")
    (home,) = (line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    path = mount / f"stoker-test-{secrets.token_hex(4)}"
    try:
        (mount / "cgroup.subtree_control").write_text("+memory +pids")
        (path / "daemon").mkdir(parents=True)
        os.setxattr(path, "trusted.delegate", b"1")
    except OSError as error:
        pytest.skip(f"no cgroup can be delegated here: {error}")
    (path / "daemon" / "cgroup.procs").write_text(str(os.getpid()))
    yield path
    (mount / home.lstrip("/") / "cgroup.procs").write_text(str(os.getpid()))
    (path / "cgroup.kill").write_text("1")
    until(lambda: "populated 0" in (path / "cgroup.events").read_text(), why="an empty subtree")
    for directory, _, _ in os.walk(path, topdown=False):
        Path(directory).rmdir()


@pytest.fixture(scope="module")
def daemon(delegated: Path) -> Iterator[DaemonProcess]:
    """A daemon that finds the delegated subtree by itself."""
    assert is_delegated(delegated)
    with DaemonProcess() as process:
        yield process


@pytest.fixture(scope="module")
def client(daemon: DaemonProcess) -> Iterator[stoker.Client]:
    with daemon.client() as connected:
        yield connected


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate")


def leaf_of(client: stoker.Client, job: int) -> Path:
    running(client, job)
    return Path(str(until(lambda: attempts_of(client, job)[-1]["cgroup"], why="a leaf")))


def leaves(delegated: Path) -> list[Path]:
    return list(delegated.glob("run-*"))


def test_memory_when_a_worker_exceeds_its_limit_then_it_alone_fails_of_oom(
    daemon: DaemonProcess, client: stoker.Client, delegated: Path, gate: Gate
) -> None:
    limits = {"memory_bytes": MEMORY}
    other = submit_running(client, gate.spec(), limits=limits)

    job = submit(client, shell(f"exec {EATER}"), limits=limits, max_attempts=2, base_delay_ms=1)

    assert end_of(client, job) == ("failed", "oom")
    both = attempts_of(client, job)
    assert [(attempt["outcome"], attempt["signal"], attempt["stopped"]) for attempt in both] == [("oom", 9, False)] * 2
    assert both[0]["limits"] == {"memory_bytes": {"by": "cgroup", "value": MEMORY, "wanted": MEMORY}}
    assert both[0]["suspicion"] is None  # it was seen
    assert [event["job"] for event in daemon.logged("resource_exhausted")] == [job]
    gate.open()
    assert end_of(client, other) == ("succeeded", "exit")
    until(lambda: not leaves(delegated), why="the end of every leaf")


@pytest.mark.parametrize(("code", "end"), [(0, ("succeeded", "exit")), (5, ("failed", "oom"))])
def test_memory_when_only_a_child_was_killed_then_the_main_process_gives_the_outcome(
    client: stoker.Client, code: int, end: tuple[str, str]
) -> None:
    job = submit(client, shell(f"{EATER}; exit {code}"), limits={"memory_bytes": MEMORY})

    assert end_of(client, job) == end
    (attempt,) = attempts_of(client, job)
    assert (attempt["outcome"], attempt["exit_code"], attempt["signal"]) == ("oom", code, None)


def test_processes_when_a_worker_forks_without_end_then_its_tree_can_be_stopped(
    client: stoker.Client, delegated: Path
) -> None:
    bomb = {"command": sys.executable, "args": ["-S", "-c", BOMB], "grace_ms": 100}
    job = submit(client, bomb, limits={"processes": PROCESSES})
    leaf = leaf_of(client, job)

    until(lambda: "max 0" not in (leaf / "pids.events").read_text(), why="a fork that was refused")

    until(lambda: len((leaf / "cgroup.procs").read_text().split()) == PROCESSES, why="as many as it may have")
    assert attempts_of(client, job)[0]["limits"] == {
        "processes": {"by": "cgroup", "value": PROCESSES, "wanted": PROCESSES}
    }
    assert end_of(client, submit(client, shell("exit 0"))) == ("succeeded", "exit")
    client.cancel(job)
    assert end_of(client, job) == ("cancelled", "user")
    until(lambda: not leaves(delegated), why="the end of every leaf")
