"""Pids that are used again, at the worst moment: no stranger is ever signalled, whichever branch of recovery comes by.

Owns each branch as a round over a herd of workers whose numbers are taken by decoys of the same user and command line,
with and without pidfs. Where the worst moment lies inside a function, a hook in front of a real call swaps the process
just then. `STOKER_FAULTS` says how many reuses each branch sees. Refuses to pass when a number was not reused.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import pytest

from stoker.core.job.recovery import Fact
from stoker.core.raw_bytes import native
from stoker.process import evidence, stopping
from stoker.process import identity as identities
from stoker.process.evidence import LauncherFacts
from stoker.process.messages import Exited, Gone
from stoker.process.stopping import Ladder, await_end, stop_unborn, sweep
from tests.support import reuse
from tests.support.facts import DEADLINE_S
from tests.support.instance import LauncherHost
from tests.support.reuse import Child, Decoy, Herd, take

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from stoker.core.job.recovery import Finding
    from stoker.process.messages import LaunchOrder

REUSES = int(os.environ.get("STOKER_FAULTS", "12"))
MISSING = reuse.why_not()
GRACE_MS = 200

pytestmark = [
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
    pytest.mark.timeout(300 + REUSES),
]


@pytest.fixture(params=["pidfs", "no pidfs"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel with or without pidfs."""
    if request.param == "no pidfs":
        monkeypatch.setattr(identities, "pidfs_inode", lambda _pidfd: None)


def herded(herd: Herd) -> Iterator[Herd]:
    try:
        for _ in range(REUSES):
            herd.worker()
        yield herd
    finally:
        herd.end()


@pytest.fixture
def herd(kernel: None) -> Iterator[Herd]:
    """Workers without a launcher."""
    yield from herded(Herd())


@pytest.fixture
def users(kernel: None) -> Iterator[Herd]:
    """The same as the processes of one user; the decoys are those of another."""
    yield from herded(Herd(user=70_001, stranger=70_002))


async def find_evidence(herd: Herd) -> dict[str, Finding]:
    return await evidence.gather(herd.instance, herd.attempts(), LauncherFacts())


class Swaps:
    """Wraps a real function that takes a pid: before its first call for a worker a decoy gets that pid."""

    def __init__(self, herd: Herd, monkeypatch: pytest.MonkeyPatch, name: str, *, after: bool = False) -> None:
        self._todo = {worker.pid: run_id for run_id, worker in herd.workers.items()}
        real: Callable[[int], object] = getattr(identities, name)

        def call(pid: int) -> object:
            answer = real(pid) if after else None
            if pid in self._todo:
                herd.reuse(self._todo.pop(pid))
            return answer if after else real(pid)

        monkeypatch.setattr(identities, name, call)


# --- gone, and its number used again, before anybody looks --------------------------------------------------


async def test_recorded_pid_when_it_was_used_again_then_the_stranger_is_left_alone(
    herd: Herd,
) -> None:
    herd.reuse_all()

    findings = await find_evidence(herd)

    # Without pidfs a nameless stranger of the same tick looks like a worker that emptied its environment.
    facts = {finding.fact for finding in findings.values()}
    assert Fact.GONE in facts
    assert facts <= ({Fact.GONE, Fact.UNPROVABLE} if identities.pidfs_inode(0) is None else {Fact.GONE})
    assert herd.signalled() == {}


async def test_recorded_pid_when_others_of_its_tree_live_then_only_they_are_stopped(
    herd: Herd,
) -> None:
    left = {
        run_id: Child(herd.argv, {"STOKER_INSTANCE": herd.instance, "STOKER_RUN_ID": run_id}) for run_id in herd.workers
    }
    herd.reuse_all()

    findings = await find_evidence(herd)
    orphaned = [run_id for run_id, finding in findings.items() if finding.fact is Fact.ORPHANED]
    named = [run_id for run_id in orphaned if findings[run_id].identity is not None]
    result = await sweep(herd.instance, orphaned, grace_ms=GRACE_MS)

    ended = [run_id for run_id, child in left.items() if child.ended]
    for child in left.values():
        child.reap()
    assert (named, ended, result.left) == ([], orphaned, ())
    assert len(orphaned) > REUSES // 2
    assert herd.signalled() == {}


# --- of a user, and its number used again by another --------------------------------------------------------


async def test_run_of_a_user_when_its_number_is_of_another_then_that_one_is_left_alone(users: Herd) -> None:
    """The strangers have the run id, the instance and the mark of the run, as every user can give them."""
    users.reuse_all()

    findings = await find_evidence(users)
    result = await sweep(users.instance, list(users.workers), grace_ms=GRACE_MS, mains=users.identities)

    assert {finding.fact for finding in findings.values()} <= {Fact.GONE, Fact.UNPROVABLE}
    assert (result.killed, result.left) == (0, ())
    assert users.signalled() == {}


# --- found alive, and used again before the stop ------------------------------------------------------------


async def test_worker_when_it_ends_between_look_and_stop_then_the_stranger_is_not_stopped(
    herd: Herd,
) -> None:
    findings = await find_evidence(herd)
    assert {finding.fact for finding in findings.values()} == {Fact.ORPHANED}
    herd.reuse_all()

    result = await sweep(herd.instance, list(findings), grace_ms=GRACE_MS, mains=herd.identities)

    assert (result.killed, result.left) == (0, ())
    assert herd.signalled() == {}


@pytest.mark.parametrize("leaked", [False, True], ids=["open", "leaked"])
@pytest.mark.parametrize(
    ("moment", "after"),
    [("open_pidfd", False), ("open_pidfd", True), ("read_stat", False), ("read_marks", False), ("read_marks", True)],
    ids=["before the pin", "behind the pin", "before the look", "before the marks", "behind the marks"],
)
async def test_worker_when_it_ends_during_the_stop_then_the_stranger_gets_no_signal(
    herd: Herd, monkeypatch: pytest.MonkeyPatch, moment: str, *, after: bool, leaked: bool
) -> None:
    """Workers of leaked runs are found by their marks only; of open runs the main process is known."""
    mains = {} if leaked else herd.identities
    Swaps(herd, monkeypatch, moment, after=after)

    result = await sweep(herd.instance, list(herd.workers), grace_ms=GRACE_MS, mains=mains)

    assert result.left == ()
    assert herd.signalled() == {}


async def test_worker_when_it_ends_between_proof_and_signal_then_no_stranger_is_signalled(
    herd: Herd, monkeypatch: pytest.MonkeyPatch
) -> None:
    proven: list[stopping.TreeMember] = []
    real = stopping._signal

    def late(
        members: Sequence[stopping.TreeMember], signum: signal.Signals, reached: set[tuple[int, int]]
    ) -> list[int]:
        if not proven:
            proven.extend(members)
            herd.reuse_all()
        return real(members, signum, reached)

    monkeypatch.setattr(stopping, "_signal", late)

    result = await sweep(herd.instance, list(herd.workers), grace_ms=GRACE_MS, mains=herd.identities)

    assert (len(proven), result.killed, result.left) == (REUSES, 0, ())
    assert herd.signalled() == {}


async def test_unborn_worker_when_its_pid_is_now_another_worker_then_that_one_runs_on(
    herd: Herd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        herd, "disguises", lambda run_id: [{"STOKER_INSTANCE": herd.instance, "STOKER_RUN_ID": f"{run_id}0"}]
    )
    Swaps(herd, monkeypatch, "open_pidfd")

    await stop_unborn({"1-dead0000": [worker.pid for worker in herd.workers.values()]}, herd.instance)

    assert herd.signalled() == {}


# --- adopted, and then lost ---------------------------------------------------------------------------------


async def test_survivor_when_its_pid_is_used_again_then_its_end_is_seen_and_strangers_live(
    herd: Herd,
) -> None:
    waits = [
        asyncio.ensure_future(await_end(identity, herd.instance, run_id))
        for run_id, identity in herd.identities.items()
    ]
    early, _ = await asyncio.wait(waits, timeout=0.05)
    herd.reuse_all()

    await asyncio.wait_for(asyncio.gather(*waits), DEADLINE_S)
    late = [await_end(identity, herd.instance, run_id) for run_id, identity in herd.identities.items()]
    await asyncio.wait_for(asyncio.gather(*late), DEADLINE_S)
    result = await sweep(herd.instance, list(herd.identities), grace_ms=GRACE_MS, mains=herd.identities)

    assert (early, result.killed, result.left) == (set(), 0, ())
    assert herd.signalled() == {}


# --- under a living launcher --------------------------------------------------------------------------------


class Numbers:
    """Decoys that take the pids of runs of a living launcher."""

    def __init__(self) -> None:
        self.decoys: list[Decoy] = []
        self.rounds = 0

    def take(self, pid: int, order: LaunchOrder, environ: Mapping[str, str]) -> None:
        self.rounds += 1
        decoy = take(pid, [native(text) for text in order.argv], environ)
        if decoy is not None:
            self.decoys.append(decoy)

    def end(self) -> list[list[str]]:
        """End all decoys; returns the signals that they got."""
        got = [decoy.got() for decoy in self.decoys]
        for decoy in self.decoys:
            decoy.reap()
        assert len(got) > self.rounds // 5, "the numbers were not used again"
        return [names for names in got if names]


async def test_run_when_it_ended_and_its_pid_is_used_again_then_no_stop_meets_the_stranger(
    host: LauncherHost,
) -> None:
    client = await host.start()
    numbers = Numbers()
    for _ in range(REUSES):
        order = host.staying()
        started = await host.running(client, order)
        os.kill(started.pid, signal.SIGKILL)
        await host.gone_from_proc(started.pid)
        numbers.take(started.pid, order, {name: native(text) for name, text in order.env.items()})
        ladder = Ladder(client, order.run_id, 0)

        delivered = [await ladder.begin(), await client.signal(order.run_id, signal.SIGKILL)]

        ladder.end()
        assert delivered == [False, False]
    assert numbers.end() == []


async def test_run_when_its_main_process_ended_then_a_stop_meets_the_rest_and_no_stranger(
    host: LauncherHost,
) -> None:
    client = await host.start()
    numbers = Numbers()
    for _ in range(REUSES):
        order = host.shell("setsid sh -c 'echo far; read _ < $0' $0 & read _ < $0")
        started = await host.running(client, order, "far")
        os.kill(started.pid, signal.SIGKILL)
        await host.heard(Exited, order)
        numbers.take(started.pid, order, {})

        delivered = await client.signal(order.run_id, signal.SIGTERM)

        await host.heard(Gone, order)
        assert delivered
    assert numbers.end() == []
