"""The set-up before a worker's first instruction: limits, niceness, the cgroup, the user.

Owns the prepared route (fork, set-up, exec) where it differs from the plain one. A test that this machine does not
permit is skipped with the reason.
"""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stoker.core.job.limits import NO_LIMITS, Bounds, Limits
from stoker.process.messages import Exited, Setup, Started
from tests.support.cgroups import is_empty
from tests.support.facts import until_async
from tests.support.instance import ended, log_of, with_setup

if TYPE_CHECKING:
    from tests.support.instance import LauncherHost


@pytest.fixture
def leaf(cgroup_root: Path) -> Path:
    return cgroup_root


@pytest.mark.parametrize(
    ("limits", "option", "shown"),
    [
        (Limits(open_files=64), "-n", "64"),
        (Limits(file_size_bytes=1 << 20), "-f", str((1 << 20) // 512)),
        (Limits(cpu_seconds=77), "-t", "77"),
        (Limits(memory_bytes=256 << 20), "-v", str(256 << 10)),
        (Limits(processes=99), "-p", "99"),
    ],
    ids=["open files", "file size", "cpu", "memory", "processes"],
)
async def test_limit_when_asked_for_then_the_worker_has_it(
    host: LauncherHost, limits: Limits, option: str, shown: str
) -> None:
    client = await host.start()
    order = host.shell(f"ulimit {option}", **with_setup(limits=limits))

    await host.run(client, order)

    assert log_of(order).strip() == shown
    bounds = (await host.heard(Started, order)).bounds
    expected = NO_LIMITS if limits.processes and os.geteuid() == 0 else limits  # RLIMIT_NPROC does not bind root
    assert bounds == Bounds(rlimit=expected)


async def test_limit_when_above_what_may_be_granted_then_it_is_lowered_to_that(host: LauncherHost) -> None:
    client = await host.start()
    resource.prlimit(client.facts.pid, resource.RLIMIT_NOFILE, (500, 500))
    order = host.shell("ulimit -Hn", **with_setup(limits=Limits(open_files=10_000)))

    await host.run(client, order)

    assert log_of(order).strip() == "500"
    assert (await host.heard(Started, order)).bounds == Bounds(rlimit=Limits(open_files=500))


async def test_limit_when_the_leaf_keeps_it_then_that_is_shown_and_no_rlimit_is_set(host: LauncherHost) -> None:
    client = await host.start()
    order = host.shell("ulimit -v", **with_setup(leaf_limits=Limits(memory_bytes=64 << 20)))

    await host.run(client, order)

    assert log_of(order).strip() == "unlimited"
    assert (await host.heard(Started, order)).bounds == Bounds(cgroup=Limits(memory_bytes=64 << 20))


async def test_worker_when_no_limit_was_asked_for_then_no_bounds_are_reported(host: LauncherHost) -> None:
    client = await host.start()
    order = host.order("/bin/true", **with_setup(nice=1))

    await host.run(client, order)

    assert (await host.heard(Started, order)).bounds is None


async def test_cpu_limit_when_used_up_then_the_kernel_ends_the_worker_and_it_is_no_stop(host: LauncherHost) -> None:
    client = await host.start()

    exited = await host.run(client, host.shell("while :; do :; done", **with_setup(limits=Limits(cpu_seconds=1))))

    assert (exited.signal, exited.stopped) == (signal.SIGXCPU, False)


async def test_nice_when_asked_for_then_it_is_added_to_our_own(host: LauncherHost) -> None:
    client = await host.start()
    order = host.order("nice", **with_setup(nice=3))

    await host.run(client, order)

    assert int(log_of(order)) == min(os.getpriority(os.PRIO_PROCESS, client.facts.pid) + 3, 19)


async def test_cgroup_when_asked_for_then_the_worker_begins_inside(host: LauncherHost, leaf: Path) -> None:
    client = await host.start()
    order = host.order("grep", "^0::", "/proc/self/cgroup", **with_setup(cgroup=str(leaf)))

    await host.run(client, order)

    assert log_of(order).strip().endswith(f"/{leaf.name}")
    assert (await host.heard(Started, order)).cgroup == str(leaf)


async def test_cgroup_when_not_joined_from_birth_then_the_worker_is_moved_into_it(
    host: LauncherHost, leaf: Path
) -> None:
    client = await host.start()

    started = await host.running(client, host.staying(**with_setup(cgroup=str(leaf), born_inside=False)))

    assert (leaf / "cgroup.procs").read_text().split() == [str(started.pid)]
    assert started.cgroup == str(leaf)


async def test_cgroup_when_the_worker_has_ended_before_the_move_then_that_is_no_error(
    host: LauncherHost, leaf: Path
) -> None:
    client = await host.start()
    orders = [host.order("/bin/true", **with_setup(cgroup=str(leaf), born_inside=False)) for _ in range(50)]

    client.launch(orders)

    assert [(await host.heard(Exited, order)).exit_code for order in orders] == [0] * 50


@pytest.mark.parametrize("born_inside", [True, False])
async def test_cgroup_when_it_does_not_exist_then_nothing_runs(host: LauncherHost, *, born_inside: bool) -> None:
    client = await host.start()
    order = host.order("/bin/true", **with_setup(cgroup="/sys/fs/cgroup/no-such-leaf", born_inside=born_inside))

    exited = await host.run(client, order)

    assert exited.spawn_error is not None
    assert "no-such-leaf" in exited.spawn_error.error


async def test_kill_when_the_run_has_a_cgroup_then_all_in_it_end_and_no_others(host: LauncherHost, leaf: Path) -> None:
    client = await host.start()
    other = await host.running(client, host.staying())
    hidden = "env -i setsid sh -c 'read _ < $0' $0 & echo up; wait"
    order = host.shell(hidden, **with_setup(cgroup=str(leaf)))
    await host.running(client, order, "up")

    await client.signal(order.run_id, signal.SIGKILL)
    await host.heard(Exited, order)

    await until_async(lambda: is_empty(leaf))
    assert not ended(other.pid)


async def test_child_when_only_its_cgroup_tells_whose_it_is_then_the_run_waits_for_it(
    host: LauncherHost, leaf: Path
) -> None:
    client = await host.start()
    await host.running(client, host.staying())
    await host.running(client, host.staying())
    order = host.shell("(env -i setsid sh -c 'read _ < $0' $0 &); exit 4", **with_setup(cgroup=str(leaf)))

    exited = await host.run(client, order)
    await client.signal(order.run_id, signal.SIGTERM)
    await host.gone(order)

    assert (exited.exit_code, exited.left) == (4, 1)
    assert client.leaked == 0
    await until_async(lambda: is_empty(leaf))


async def test_oom_when_killed_without_the_kernels_word_then_it_is_not_claimed(host: LauncherHost, leaf: Path) -> None:
    client = await host.start()

    exited = await host.run(client, host.shell("kill -KILL $$", **with_setup(cgroup=str(leaf))))

    assert (exited.signal, exited.oom) == (signal.SIGKILL, False)


async def test_setup_when_it_asks_for_nothing_then_the_worker_runs_as_ever(host: LauncherHost) -> None:
    client = await host.start()

    exited = await host.run(client, host.order("/bin/true", setup=Setup()))

    assert exited.exit_code == 0
