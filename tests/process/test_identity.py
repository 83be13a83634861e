"""Proof of identity, and the scan of /proc."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from msgspec.structs import replace

from stoker.core.job.model import Identity
from stoker.process import identity as identities
from stoker.process.identity import IdentityVerdict, prove, read_marks, scan, verdict
from tests.support.facts import until
from tests.support.instance import Stranger, log_of

if TYPE_CHECKING:
    from stoker.process.messages import LaunchOrder
    from tests.support.instance import LauncherHost

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: another user, namespaces")


def no_inode(_pidfd: int) -> None:
    """As on a kernel before 6.9, where only ticks and marks tell processes apart."""


@pytest.fixture(params=[True, False], ids=["pidfs", "no pidfs"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.param:
        monkeypatch.setattr(identities, "pidfs_inode", no_inode)


ON_ANY_KERNEL = pytest.mark.usefixtures("kernel")


async def worker(host: LauncherHost, order: LaunchOrder) -> Identity:
    client = await host.start()
    return client.identity(await host.running(client, order))


def identity_of(pid: int, **fields: object) -> Identity:
    """The identity of that process, changed by `fields`."""
    stat = identities.read_stat(pid)
    assert stat is not None
    pidfd = os.pidfd_open(pid)
    inode = os.fstat(pidfd).st_ino
    os.close(pidfd)
    identity = Identity(
        pid=pid,
        start_ticks=stat.start_ticks,
        boot_id=identities.boot_id(),
        pid_namespace=identities.pid_namespace(),
        pidfs_inode=inode,
    )
    return replace(identity, **fields)


@ON_ANY_KERNEL
async def test_proof_when_the_worker_lives_then_it_is_ours_and_pinned(host: LauncherHost) -> None:
    order = host.staying()
    who = await worker(host, order)

    proof, pidfd = prove(who, host.instance, order.run_id)

    assert proof is IdentityVerdict.OURS
    assert pidfd is not None
    assert not identities.has_ended(pidfd)
    os.kill(who.pid, 9)
    assert until(lambda: identities.has_ended(pidfd))
    os.close(pidfd)


@ON_ANY_KERNEL
async def test_proof_when_the_worker_has_ended_then_it_is_gone(host: LauncherHost) -> None:
    order = host.staying()
    who = await worker(host, order)
    os.kill(who.pid, 9)
    await host.gone_from_proc(who.pid)

    assert prove(who, host.instance, order.run_id) == (IdentityVerdict.GONE, None)


async def test_proof_when_only_its_zombie_is_left_then_it_is_gone(host: LauncherHost) -> None:
    child = Stranger(host, "/bin/true", STOKER_RUN_ID="1.1.aa", STOKER_INSTANCE=host.instance)
    who = identity_of(child.pid)
    until(child.ended)

    assert Path(f"/proc/{child.pid}").exists()
    assert verdict(who, host.instance, "1.1.aa") is IdentityVerdict.GONE


async def test_proof_when_the_number_is_a_threads_by_now_then_it_is_gone(host: LauncherHost) -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert thread.native_id is not None
        who = replace(identity_of(os.getpid()), pid=thread.native_id)

        assert prove(who, host.instance, "1.1.aa") == (IdentityVerdict.GONE, None)
    finally:
        done.set()
        thread.join()


@ON_ANY_KERNEL
async def test_proof_when_the_process_started_at_another_time_then_it_is_not_ours(host: LauncherHost) -> None:
    order = host.staying()
    who = await worker(host, order)

    other = replace(who, start_ticks=who.start_ticks - 1)

    assert prove(other, host.instance, order.run_id) == (IdentityVerdict.NOT_OURS, None)


async def test_proof_when_the_inode_is_another_then_all_else_does_not_count(host: LauncherHost) -> None:
    order = host.staying()
    who = await worker(host, order)
    assert who.pidfs_inode is not None, "this kernel has no pidfs: see the tests without it"

    other = replace(who, pidfs_inode=who.pidfs_inode + 1)

    assert verdict(other, host.instance, order.run_id) is IdentityVerdict.NOT_OURS


async def test_proof_when_only_pid_and_ticks_fit_and_the_run_differs_then_it_is_not_ours(
    host: LauncherHost,
) -> None:
    child = Stranger(host, "/bin/sleep", "600", STOKER_RUN_ID="2.1.bb", STOKER_INSTANCE=host.instance)

    assert verdict(identity_of(child.pid, pidfs_inode=None), host.instance, "1.1.aa") is IdentityVerdict.NOT_OURS
    assert verdict(identity_of(child.pid, pidfs_inode=None), "another", "2.1.bb") is IdentityVerdict.NOT_OURS


async def test_proof_when_only_pid_and_ticks_fit_then_it_is_unprovable(host: LauncherHost) -> None:
    child = Stranger(host, "/bin/sleep", "600")

    assert verdict(identity_of(child.pid, pidfs_inode=None), host.instance, "1.1.aa") is IdentityVerdict.UNPROVABLE


@pytest.mark.parametrize(
    ("shedding", "without_inode"),
    [("env -i", IdentityVerdict.OURS), ("prlimit --rttime=unlimited env -i", IdentityVerdict.UNPROVABLE)],
    ids=["its mark is left", "its mark is gone too"],
)
async def test_proof_when_the_environment_is_emptied_then_the_mark_or_the_inode_proves(
    host: LauncherHost, monkeypatch: pytest.MonkeyPatch, shedding: str, without_inode: IdentityVerdict
) -> None:
    order = host.shell(f"echo up; exec {shedding} /bin/sh -c 'read _ < $0' $0")
    client = await host.start()
    who = client.identity(await host.running(client, order, "up"))
    # prlimit and env show the script too: only the shell that reads has shed all that they shed
    until(lambda: Path(f"/proc/{who.pid}/cmdline").read_bytes().startswith(b"/bin/sh\0-c\0read _"))
    assert not read_marks(who.pid).instance

    assert verdict(who, host.instance, order.run_id) is IdentityVerdict.OURS
    monkeypatch.setattr(identities, "pidfs_inode", no_inode)
    assert verdict(who, host.instance, order.run_id) is without_inode


async def test_scan_when_a_child_daemonises_without_a_name_then_its_mark_tells_its_run(host: LauncherHost) -> None:
    order = host.shell("( setsid env -i sh -c 'echo far $$; read _ < $0' $0 & ) ; exit 0")
    client = await host.start()
    await host.running(client, order, "far")
    (far,) = [int(line.split()[1]) for line in log_of(order).splitlines()]

    assert scan(host.instance).of_run(order.run_id) == [far]
    assert scan(host.instance).of_run("1.1.0123456789abcdef") == []
    assert identities.read_mark(client.facts.pid) == 0


async def test_proof_when_the_boot_was_another_then_it_is_gone_whatever_runs_now(host: LauncherHost) -> None:
    order = host.staying()
    who = await worker(host, order)

    assert prove(replace(who, boot_id="0" * 36), host.instance, order.run_id) == (IdentityVerdict.GONE, None)


async def test_proof_when_the_pid_namespace_is_another_then_it_is_unprovable(host: LauncherHost) -> None:
    order = host.staying()
    who = await worker(host, order)

    assert prove(replace(who, pid_namespace=1), host.instance, order.run_id) == (IdentityVerdict.UNPROVABLE, None)


LOOK = """
import sys, msgspec
from stoker.core.job.model import Identity
from stoker.process.identity import verdict
print(verdict(msgspec.json.decode(sys.argv[1], type=Identity), *sys.argv[2:]))
"""


def verdict_from(where: list[str], who: Identity, instance: str, run_id: str) -> str:
    """The verdict of a process that sees another /proc or another boot."""
    command = [*where, sys.executable, "-c", LOOK, msgspec.json.encode(who).decode(), instance, run_id]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@AS_ROOT
async def test_proof_when_the_machine_was_started_anew_then_it_is_gone(host: LauncherHost) -> None:
    order = host.staying()
    who = await worker(host, order)
    boot = host.home / "boot_id"
    boot.write_text("11111111-2222-3333-4444-555555555555\n")
    mounted = f'mount --bind {boot} /proc/sys/kernel/random/boot_id && exec "$@"'

    assert verdict_from(["unshare", "-m", "sh", "-c", mounted, "sh"], who, host.instance, order.run_id) == "gone"
    assert verdict_from(["unshare", "-m"], who, host.instance, order.run_id) == "ours"


@AS_ROOT
async def test_proof_when_we_are_in_another_pid_namespace_then_it_is_unprovable(host: LauncherHost) -> None:
    order = host.staying()
    who = await worker(host, order)

    assert (
        verdict_from(["unshare", "--pid", "--fork", "--mount-proc"], who, host.instance, order.run_id) == "unprovable"
    )


@AS_ROOT
async def test_proof_when_the_environment_may_not_be_read_then_it_is_unprovable(host: LauncherHost) -> None:
    child = Stranger(host, "/bin/sleep", "600", STOKER_RUN_ID="1.1.aa", STOKER_INSTANCE=host.instance)
    who = identity_of(child.pid, pidfs_inode=None)
    nobody = ["setpriv", "--reuid", "65534", "--clear-groups", "--inh-caps=-all"]

    assert verdict_from(nobody, who, host.instance, "1.1.aa") == "unprovable"
    assert verdict(who, host.instance, "1.1.aa") is IdentityVerdict.OURS


async def test_scan_when_processes_carry_marks_then_each_is_found_under_its_run(host: LauncherHost) -> None:
    order = host.shell("sh -c 'echo up; read _ < $0' $0 & wait")
    client = await host.start()
    await host.running(client, order, "up")
    Stranger(host, "/bin/sleep", "600", STOKER_RUN_ID=order.run_id, STOKER_INSTANCE="another")
    Stranger(host, "/bin/sleep", "600", STOKER_RUN_ID=order.run_id)

    marked = scan(host.instance)

    assert sorted(marked.runs) == [order.run_id]
    assert sorted(marked.runs[order.run_id]) == sorted(host.workers())
    assert len(marked.runs[order.run_id]) == 2
    assert marked.launchers == {client.launcher: [client.facts.pid]}


async def test_scan_when_a_child_shows_only_its_launcher_then_it_is_found_under_that(
    host: LauncherHost,
) -> None:
    child = Stranger(host, "/bin/sleep", "600", STOKER_LAUNCHER="1-cafe0000", STOKER_INSTANCE=host.instance)

    assert scan(host.instance).launchers == {"1-cafe0000": [child.pid]}
    assert scan(host.instance).runs == {}


async def test_stat_when_the_name_is_hostile_then_the_fields_are_right(host: LauncherHost) -> None:
    program = host.home / "a) R 1 (b"
    program.symlink_to("/bin/sleep")
    child = Stranger(host, str(program), "600")
    until(lambda: "R 1" in Path(f"/proc/{child.pid}/comm").read_text())

    stat = identities.read_stat(child.pid)

    assert stat is not None
    assert stat.parent == os.getpid()
    assert not stat.ended


def test_cgroup_when_a_name_holds_a_carriage_return_then_it_proves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The name of a cgroup is free, and the kernel shows it as it is."""
    (tmp_path / "7").mkdir()
    shown = tmp_path / "7" / "cgroup"
    monkeypatch.setattr(identities, "PROC", tmp_path)

    shown.write_bytes(b"5:devices:/evil\r0::/stoker/7.1.ab\n0::/\n")
    assert not identities._is_in(7, "/sys/fs/cgroup/stoker/7.1.ab")

    shown.write_bytes(b"5:devices:/evil\n0::/stoker/7.1.ab\n")
    assert identities._is_in(7, "/sys/fs/cgroup/stoker/7.1.ab")
