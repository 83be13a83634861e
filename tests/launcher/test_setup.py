"""What must be in force before a worker's first instruction: limits, niceness, the cgroup, the user."""

from __future__ import annotations

import errno
import os
import resource
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stoker.core.model import Limits
from stoker.process.cgroup import read_mounts
from stoker.process.messages import Setup, User
from tests.support.launcher import alive

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.launcher import DaemonSide

NOBODY = User(uid=65_534, gid=65_534, groups=(65_533,))
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")


@pytest.fixture
def leaf() -> Iterator[Path]:
    """An empty cgroup of version 2."""
    mount = next(read_mounts(Path("/proc/self/mountinfo").read_text()), None)
    if mount is None or not os.access(mount, os.W_OK):
        pytest.skip("no writable cgroup v2 here")
    path = mount / f"stoker-test-{secrets.token_hex(4)}"
    path.mkdir()
    yield path
    (path / "cgroup.kill").write_text("1")
    while "populated 1" in (path / "cgroup.events").read_text():
        os.sched_yield()
    path.rmdir()


@pytest.mark.parametrize(
    ("limits", "option", "shown"),
    [
        (Limits(open_files=64), "-n", "64"),
        (Limits(file_size_bytes=1_048_576), "-f", str(1_048_576 // 512)),
        (Limits(cpu_seconds=77), "-t", "77"),
        (Limits(memory_bytes=256 * 1024 * 1024), "-v", str(256 * 1024)),
        (Limits(processes=99), "-p", "99"),
    ],
    ids=["open files", "file size", "cpu", "memory", "processes"],
)
async def test_limit_when_asked_for_then_the_worker_has_it(
    side: DaemonSide, limits: Limits, option: str, shown: str
) -> None:
    exited = await side.complete("sh", "-c", f"ulimit {option}", setup=Setup(limits=limits))

    assert side.log(exited.run_id).read_text().strip() == shown


async def test_limit_when_above_what_may_be_granted_then_it_is_lowered_to_that(side: DaemonSide) -> None:
    resource.prlimit(side.launcher.pid, resource.RLIMIT_NOFILE, (500, 500))

    exited = await side.complete("sh", "-c", "ulimit -Hn", setup=Setup(limits=Limits(open_files=10_000)))

    assert side.log(exited.run_id).read_text().strip() == "500"


async def test_cpu_limit_when_used_up_then_the_worker_ends_by_sigxcpu(side: DaemonSide) -> None:
    exited = await side.complete("sh", "-c", "while :; do :; done", setup=Setup(limits=Limits(cpu_seconds=1)))

    assert exited.signal == 24
    assert not exited.stopped


async def test_nice_when_asked_for_then_it_is_added_to_our_own(side: DaemonSide) -> None:
    exited = await side.complete("nice", setup=Setup(nice=3))

    assert int(side.log(exited.run_id).read_text()) == min(side.launcher.nice() + 3, 19)


@ROOT_ONLY
async def test_user_when_asked_for_then_the_worker_is_that_user_and_nothing_of_ours(side: DaemonSide) -> None:
    exited = await side.complete("sh", "-c", "id -u; id -g; id -G", setup=Setup(user=NOBODY))

    assert side.log(exited.run_id).read_text().split("\n") == ["65534", "65534", "65534 65533", ""]


@ROOT_ONLY
async def test_user_when_the_working_dir_is_closed_to_them_then_nothing_runs(side: DaemonSide, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)

    exited = await side.complete("/bin/true", working_dir=str(closed), setup=Setup(user=NOBODY))

    assert exited.spawn_error is not None
    assert exited.spawn_error.errno == errno.EACCES
    assert str(closed) in exited.spawn_error.error


async def test_cgroup_when_asked_for_then_the_worker_begins_inside(side: DaemonSide, leaf: Path) -> None:
    exited = await side.complete("grep", "^0::", "/proc/self/cgroup", setup=Setup(cgroup=str(leaf)))

    assert side.log(exited.run_id).read_text().strip().endswith(f"/{leaf.name}")
    assert (await side.started(exited.run_id)).cgroup == str(leaf)


async def test_cgroup_when_it_does_not_exist_then_nothing_runs(side: DaemonSide) -> None:
    exited = await side.complete("/bin/true", setup=Setup(cgroup="/sys/fs/cgroup/no-such-leaf"))

    assert exited.spawn_error is not None
    assert "cgroup" in exited.spawn_error.error


async def test_kill_when_the_run_has_a_cgroup_then_all_in_it_end(side: DaemonSide, leaf: Path) -> None:
    hidden = "env -i setsid sleep 60 & env -i setsid setsid sleep 60 & echo up; wait"
    started = await side.begin("sh", "-c", hidden, setup=Setup(cgroup=str(leaf)))
    other = await side.begin("sleep", "60")
    await side.log_says(started.run_id, "up")

    await side.client.signal(started.run_id, 9)
    exited = await side.exited(started.run_id)
    if exited.left:
        await side.gone(started.run_id)

    assert "populated 0" in (leaf / "cgroup.events").read_text()
    assert alive(other.pid)


async def test_oom_when_killed_without_the_kernels_word_then_it_is_not_claimed(side: DaemonSide, leaf: Path) -> None:
    exited = await side.complete("sh", "-c", "kill -KILL $$", setup=Setup(cgroup=str(leaf)))

    assert exited.signal == 9
    assert not exited.oom
