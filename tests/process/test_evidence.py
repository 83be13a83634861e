"""Findings when a source fails: a launcher that dies while it is asked, a worker without a recorded identity.

Owns the findings alone; tests/engine and tests/simulation cover the recovery that follows.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from stoker.core.job.recovery import Fact
from stoker.process import evidence
from stoker.process.identity import ProcessStat
from stoker.process.work_files import WorkFiles
from tests.support.facts import until_async
from tests.support.instance import LauncherHost
from tests.support.jobs import attempt, running, spec

RUN = "7.1.00000000000000ab"


async def test_hear_when_a_launcher_dies_while_it_is_asked_then_the_others_are_heard(host: LauncherHost) -> None:
    dying, other = await host.start(), await host.start()
    order = host.staying()
    other.launch([order])
    os.kill(dying.facts.pid, signal.SIGKILL)
    await until_async(lambda: dying.lost)

    ((client, runs),) = await evidence.ask_launchers([dying, other], [], None)

    assert (client, [run.run_id for run in runs]) == (other, [order.run_id])


async def test_hear_when_a_launcher_is_silent_then_the_others_are_heard_in_their_time(host: LauncherHost) -> None:
    silent, other = await host.start(), await host.start()
    os.kill(silent.facts.pid, signal.SIGSTOP)

    heard = await evidence.ask_launchers([silent, other], [], 0.2)

    assert [client for client, _ in heard] == [other]


def test_search_when_a_worker_may_be_in_another_namespace_then_it_is_not_called_gone() -> None:
    before, after = attempt(launcher="3-cafe0000"), attempt(run_id="8.1.b", launcher="4-cafe0000")

    findings = evidence.search_proc("ab" * 8, [before, after], 0, 3)

    assert findings[before.run_id].fact is Fact.UNPROVABLE
    assert findings[after.run_id].fact is Fact.GONE


@pytest.mark.parametrize(
    ("sources", "earlier_epochs", "left", "fact"),
    [
        pytest.param(("a.c",), 2, "", Fact.NEVER_STARTED, id="the daemon died before it had hashed the sources"),
        pytest.param(("a.c",), 2, f"work/{RUN}.sources", Fact.GONE, id="the order may have been sent"),
        pytest.param(("a.c",), 2, "logs/0/7/1.log", Fact.GONE, id="a launcher had the order"),
        pytest.param(("a.c",), 3, "", Fact.GONE, id="a loss of power may have taken the files"),
        pytest.param((), 2, "", Fact.GONE, id="its order waited for no hashes"),
    ],
)
def test_gone_run_when_no_order_of_it_can_have_been_sent_then_it_never_started(
    tmp_path: Path, sources: tuple[str, ...], earlier_epochs: int, left: str, fact: Fact
) -> None:
    files, (of, _) = WorkFiles(tmp_path), running(spec(sources=sources))
    run = attempt(of, run_id=RUN, launcher="3-cafe0000")
    if left:
        (tmp_path / left).parent.mkdir(parents=True)
        (tmp_path / left).touch()
    gone = evidence.search_proc("ab" * 8, [run], 0, 0)

    findings = evidence.with_unordered(gone, [(of, run)], files, earlier_epochs)

    assert findings[RUN].fact is fact


def stat(parent: int = 1, session: int = 40, ticks: int = 7) -> ProcessStat:
    return ProcessStat("S", parent, session, 1, ticks)


@pytest.mark.parametrize(
    "living",
    [
        pytest.param({12: stat(parent=40), 40: stat()}, id="a child with a smaller number began in the same tick"),
        pytest.param({12: stat(parent=40, session=12), 40: stat()}, id="that child leads a session of its own"),
        pytest.param({12: stat(session=40), 40: stat()}, id="its own parent is dead"),
    ],
)
def test_leader_when_pids_wrapped_within_a_tick_then_the_main_process_is_found(
    living: dict[int, ProcessStat],
) -> None:
    leader = evidence._leader(living)

    assert leader is not None
    assert leader.pid == 40


def test_leader_when_the_main_process_is_gone_then_there_is_no_leader() -> None:
    assert evidence._leader({41: stat(), 12: stat()}) is None
