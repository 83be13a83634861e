"""A cgroup for each attempt of a real daemon: joined before the first instruction, removed once it is settled.

Needs a writable cgroup v2, but not its controllers: rlimits in their place are tested as well.
"""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from stoker.core.clock import wall_ms
from stoker.core.job.limits import Limits
from stoker.core.tokens import Tokens
from stoker.executors.attempt_cgroups import AttemptCgroups
from stoker.executors.base import Start
from stoker.executors.environment import WorkerContext
from stoker.process.cgroup import Cgroups
from stoker.process.work_files import WorkFiles
from tests.support import jobs
from tests.support.daemon import DaemonProcess
from tests.support.facts import scales, until
from tests.support.instance import ended
from tests.support.strace import Attached, injected, why_not
from tests.support.work import end_of, job_view, shell, submit, submit_running

if TYPE_CHECKING:
    import stoker
    from tests.support.work import Gate

RUN = "7.1.00000000000000aa"
DEEPER_THAN_PYTHON = 1_100  # calls of its own


def leaves_of(cgroup_root: Path) -> list[str]:
    return sorted(path.name for path in cgroup_root.glob("run-*"))


def attempt_of(daemon: DaemonProcess, job_id: int) -> dict[str, Any]:
    with daemon.client() as client:
        attempts: list[dict[str, Any]] = job_view(client, job_id)["attempts_list"]
    return attempts[-1]


def test_attempt_when_a_root_is_set_then_it_runs_in_its_own_leaf_which_goes_with_it(cgroup_root: Path) -> None:
    with DaemonProcess(f'[cgroup]\nroot = "{cgroup_root}"\n') as daemon, daemon.client() as client:
        first = client.submit("sh", "-c", "cat /proc/self/cgroup; exec sleep 600")["id"]
        pid = until(lambda: job_view(client, first)["pid"])
        attempt = until(lambda: (current := attempt_of(daemon, first))["cgroup"] and current)
        leaf = Path(attempt["cgroup"])

        assert leaf == cgroup_root / f"run-{attempt['run_id']}"
        until(lambda: (leaf / "cgroup.procs").read_text().split() == [str(pid)])
        assert str(leaf) in daemon.cli("show", "--json", str(first)).stdout
        client.cancel(first)
        until(lambda: leaves_of(cgroup_root) == [])
        assert f"0::/{cgroup_root.name}/{leaf.name}" in b"".join(client.logs(first)).decode()


def test_attempt_when_no_root_is_set_then_it_has_no_leaf(cgroup_root: Path) -> None:
    with DaemonProcess('[cgroup]\nroot = "off"\n') as daemon, daemon.client() as client:
        job = client.submit("true")["id"]
        client.wait(job)

        assert attempt_of(daemon, job)["cgroup"] is None


def test_daemon_when_the_root_is_no_cgroup_then_it_does_not_start_and_says_why(stopped_daemon: DaemonProcess) -> None:
    stopped_daemon.config.write_text('[cgroup]\nroot = "/tmp"\n')

    stopped_daemon.spawn()

    assert stopped_daemon.wait() == 78
    assert "cgroup" in stopped_daemon.tail()


def test_leftovers_when_the_daemon_starts_again_then_only_those_of_survivors_stay(cgroup_root: Path) -> None:
    with DaemonProcess(f'[cgroup]\nroot = "{cgroup_root}"\n') as daemon:
        with daemon.client() as client:
            survivor = client.submit("sleep", "600", survive=True)["id"]
            until(lambda: attempt_of(daemon, survivor)["cgroup"])
        daemon.kill9()
        (cgroup_root / "run-9.1.leftover" / "inside").mkdir(parents=True)

        daemon.start()

        run_id = attempt_of(daemon, survivor)["run_id"]
        assert leaves_of(cgroup_root) == [f"run-{run_id}"]
        assert (cgroup_root / f"run-{run_id}" / "cgroup.procs").read_text()


def test_orphan_when_launcher_and_environment_are_gone_then_its_cgroup_leads_to_it(cgroup_root: Path) -> None:
    script = "(setsid env -i sh -c 'echo hidden; sleep 600; :' &); sleep 600"
    with DaemonProcess(f'[cgroup]\nroot = "{cgroup_root}"\n') as daemon:
        with daemon.client() as client:
            job = client.submit("sh", "-c", script)["id"]
            until(lambda: b"hidden" in b"".join(client.logs(job)))
            launcher = client.call("system.status")["launchers"][0]["pid"]
            main = job_view(client, job)["pid"]
        daemon.kill9()
        os.kill(launcher, signal.SIGKILL)
        # No parent, no mark: only the cgroup shows its owner.
        (leaf,) = cgroup_root.glob("run-*")
        hidden = [pid for pid in (leaf / "cgroup.procs").read_text().split() if pid != str(main)]

        daemon.start()

        until(lambda: leaves_of(cgroup_root) == [])
        assert hidden
        assert all(ended(int(pid)) for pid in hidden)


# --- the parts


def order_in(leaves: AttemptCgroups, limits: Limits) -> Any:
    class Silent:
        def traceparent(self, *_: object) -> str:
            return ""

    context = WorkerContext(
        state_dir=Path("/s"),
        socket="/s/sock",
        instance="aa",
        epoch=1,
        base={},
        umask=0o022,
        telemetry=Silent(),  # type: ignore[arg-type]
        cgroups=leaves,
        tokens=Tokens("00" * 32),
        work_files=WorkFiles(Path("/s")),
    )
    of = jobs.job(asked=jobs.spec(limits=limits))
    return context.order(Start(of, replace(jobs.attempt(of), run_id=RUN)))


LIMITS = Limits(memory_bytes=1 << 30, processes=64, open_files=100)


def test_order_when_there_is_no_root_then_limits_are_left_to_the_process() -> None:
    assert order_in(AttemptCgroups(), LIMITS).setup.limits == LIMITS
    assert order_in(AttemptCgroups(), LIMITS).setup.cgroup is None
    assert order_in(AttemptCgroups(), Limits()).setup is None


def test_order_when_the_leaf_has_no_controllers_then_limits_are_left_to_the_process(cgroup_root: Path) -> None:
    setup = order_in(AttemptCgroups.below(str(cgroup_root)), LIMITS).setup

    assert setup.cgroup == str(cgroup_root / f"run-{RUN}")
    assert setup.limits == LIMITS
    assert setup.born_inside, "what is forked before the move would stay outside for good"


def test_order_when_the_leaf_bounds_the_tree_then_the_process_is_not_bounded_too(tmp_path: Path) -> None:
    """On plain files, as most machines that run tests have no free controller."""
    cgroups = Cgroups(tmp_path)
    cgroups.controllers = frozenset({"memory", "pids"})
    leaf = tmp_path / f"run-{RUN}"
    leaf.mkdir()
    for name in ("memory.max", "pids.max"):
        (leaf / name).touch()

    setup = order_in(AttemptCgroups(cgroups), LIMITS).setup

    assert setup.limits == Limits(open_files=100)
    assert setup.born_inside
    assert ((leaf / "memory.max").read_text(), (leaf / "pids.max").read_text()) == (str(1 << 30), "64")


def test_order_when_no_leaf_can_be_made_then_the_attempt_runs_without_one(tmp_path: Path) -> None:
    setup = order_in(AttemptCgroups(Cgroups(tmp_path / "gone")), LIMITS).setup

    assert (setup.cgroup, setup.limits) == (None, LIMITS)


async def test_remove_when_something_still_lives_in_it_then_that_is_ended_first(cgroup_root: Path) -> None:
    leaves = AttemptCgroups(Cgroups(cgroup_root))
    leaf = leaves.make(RUN, Limits())
    assert leaf is not None
    child = os.posix_spawn("/bin/sleep", ["sleep", "600"], {})
    (leaf.path / "cgroup.procs").write_text(str(child))

    left = leaves.remove([RUN])
    await leaves.remove_in_time(RUN)

    assert left == [RUN]
    assert leaves_of(cgroup_root) == []
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_worker_when_it_nests_cgroups_without_end_then_the_daemon_removes_them(cgroup_root: Path) -> None:
    settings = f'[cgroup]\nroot = "{cgroup_root}"\n'
    nest = f"import os; os.chdir('{cgroup_root}/run-' + os.environ['STOKER_RUN_ID'])\n"
    nest += f"for _ in range({DEEPER_THAN_PYTHON}): os.mkdir('a'); os.chdir('a')"
    with DaemonProcess(settings) as daemon, daemon.client() as client:
        job = submit(client, {"command": sys.executable, "args": ["-I", "-S", "-c", nest]})
        ends = [end_of(client, job), end_of(client, submit(client, shell(":")))]
        until(lambda: leaves_of(cgroup_root) == [], why="the end of the leaf")

    assert ends == [("succeeded", "exit")] * 2


async def test_remove_leftovers_when_a_worker_nested_cgroups_then_they_go(cgroup_root: Path) -> None:
    leaves = AttemptCgroups(Cgroups(cgroup_root))
    leaf = leaves.make(RUN, Limits())
    assert leaf is not None
    (leaf.path / "a" / "b").mkdir(parents=True)

    await leaves.remove_leftovers({})

    assert leaves_of(cgroup_root) == []


async def test_remove_leftovers_when_the_attempt_is_open_then_its_empty_leaf_stays(cgroup_root: Path) -> None:
    leaves = AttemptCgroups(Cgroups(cgroup_root))
    leaves.make(RUN, Limits())
    leaves.make("8.1.bb", Limits())

    await leaves.remove_leftovers({RUN})

    assert leaves_of(cgroup_root) == [f"run-{RUN}"]


async def test_remove_leftovers_when_something_lives_in_one_then_it_is_left_alone(cgroup_root: Path) -> None:
    leaves = AttemptCgroups(Cgroups(cgroup_root))
    leaf = leaves.make(RUN, Limits())
    assert leaf is not None
    leaves.make("8.1.bb", Limits())
    child = os.posix_spawn("/bin/sleep", ["sleep", "600"], {})
    (leaf.path / "cgroup.procs").write_text(str(child))

    await leaves.remove_leftovers({})

    assert leaves_of(cgroup_root) == [f"run-{RUN}"]
    assert os.waitpid(child, os.WNOHANG) == (0, 0)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_attempt_when_no_cgroup_can_be_made_now_then_the_job_runs_later_uncharged(cgroup_root: Path) -> None:
    settings = f'[cgroup]\nroot = "{cgroup_root}"\n'
    with DaemonProcess(settings) as daemon, daemon.client() as client:
        assert client.wait(client.submit("/bin/true")["id"])[0]["state"] == "succeeded"
        until(lambda: leaves_of(cgroup_root) == [])
        (cgroup_root / "cgroup.max.descendants").write_text("0")

        jobs_sent = [client.submit("/bin/true")["id"] for _ in range(4)]
        until(lambda: client.status()["host_shortage"], why="a shortage in the status")
        (cgroup_root / "cgroup.max.descendants").write_text("max")

        for job in jobs_sent:
            assert client.wait(job)[0]["state"] == "succeeded"
            assert job_view(client, job)["failures"] == 0


# --- frozen -------------------------------------------------------------------------------------------------

BUSY, CALM = "throttle_threshold = 0.01\nresume_threshold = 0\n", "throttle_threshold = 100\n"


def settings(cgroup_root: Path, memory: str) -> str:
    return (
        f'[cgroup]\nroot = "{cgroup_root}"\n[throttle]\nfreeze_running = true\n[queues.bulk]\nclass = "low"\n'
        f"[cpu]\nsample_ms = 100\nthrottle_threshold = 100\n[memory]\n{memory}"
    )


def press(daemon: DaemonProcess, cgroup_root: Path, memory: str) -> None:
    daemon.config.write_text(settings(cgroup_root, memory))
    with daemon.client() as client:
        client.call("system.reload")


def started(client: stoker.Client, job: int) -> bool:
    return job_view(client, job)["started_at"] is not None


def frozen_or_ended(client: stoker.Client, job: int) -> Any:
    view = job_view(client, job)
    return view if view["frozen"] or view["reason"] else None


def frozen_in_time(daemon: DaemonProcess, client: stoker.Client, cgroup_root: Path, gate: Gate) -> tuple[int, int]:
    """A job that was frozen in the first half of its limit, and this limit: longer and longer on a busy machine."""
    for limit_ms in scales(2_000):
        press(daemon, cgroup_root, CALM)
        low = submit(client, gate.spec(), queue="bulk", timeout_ms=limit_ms)
        until(partial(started, client, low), why="its start")
        press(daemon, cgroup_root, BUSY)
        seen = until(partial(frozen_or_ended, client, low), why="the freeze")
        if seen["frozen"] and wall_ms() - seen["started_at"] < limit_ms / 2:
            return low, limit_ms
        client.cancel(low)
    raise AssertionError("scales raises")


def test_limit_when_the_worker_is_frozen_then_that_time_does_not_count(cgroup_root: Path, gate: Gate) -> None:
    """Another job with the same limit starts after the freeze and passes it, so the frozen one was due."""
    with DaemonProcess(settings(cgroup_root, CALM)) as daemon, daemon.client() as client:
        low, limit_ms = frozen_in_time(daemon, client, cgroup_root, gate)
        other = submit(client, shell("exec sleep 600"), timeout_ms=limit_ms)

        assert end_of(client, other) == ("failed", "timeout")

        assert (job_view(client, low)["state"], job_view(client, low)["stopping"]) == ("running", False)
        assert (client.why(low)["code"], client.why(low)["details"]) == ("throttled", {"frozen": True})
        assert "frozen" in daemon.cli("ls").stdout
        assert "running, frozen" in daemon.cli("show", str(low)).stdout
        press(daemon, cgroup_root, CALM)
        gate.open()
        assert end_of(client, low) == ("succeeded", "exit")


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_worker_when_it_cannot_be_thawed_at_first_then_it_is_later(cgroup_root: Path, gate: Gate) -> None:
    with DaemonProcess(settings(cgroup_root, CALM)) as daemon, daemon.client() as client:
        low = submit_running(client, gate.spec(), queue="bulk")
        press(daemon, cgroup_root, BUSY)
        until(lambda: job_view(client, low)["frozen"], why="the freeze")
        leaf, trace = cgroup_root / leaves_of(cgroup_root)[0], daemon.home / "trace"
        strace = Attached(daemon.pid, trace, "trace=openat", "inject=openat:error=EMFILE", path=leaf / "cgroup.freeze")

        press(daemon, cgroup_root, CALM)
        until(lambda: injected(trace), why="a thaw that fails")
        strace.detach()

        gate.open()
        assert end_of(client, low) == ("succeeded", "exit")


def test_limit_when_the_worker_was_frozen_before_then_it_is_stopped_at_its_limit(cgroup_root: Path, gate: Gate) -> None:
    with DaemonProcess(settings(cgroup_root, CALM)) as daemon, daemon.client() as client:
        low, _ = frozen_in_time(daemon, client, cgroup_root, gate)
        press(daemon, cgroup_root, CALM)

        assert end_of(client, low) == ("failed", "timeout")
