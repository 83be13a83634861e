"""Which outcome logs may be removed: those to which no launcher can have written since they were read."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from stoker.core.job.recovery import RecoveryPlan
from stoker.process.evidence import LauncherFacts
from stoker.upkeep.recovery import RecoveryFindings
from tests.support.facts import until_async
from tests.support.instance import LauncherHost


async def test_outcome_log_when_its_launcher_may_write_to_it_again_then_it_is_kept(host: LauncherHost) -> None:
    connected, lost = await host.start(), await host.start()
    os.kill(lost.facts.pid, signal.SIGKILL)
    await until_async(lambda: lost.lost, why="the loss of a connection")
    silent, dead = "1-00000001", "1-00000002"
    answered = {client.launcher: client for client in (connected, lost)}
    logs = [Path(f"{launcher}.log") for launcher in (*answered, silent, dead)]

    findings = RecoveryFindings(RecoveryPlan(), [], {}, LauncherFacts(silent=frozenset({silent})), answered, logs)

    alive = {*answered, silent}
    assert [path.stem for path in findings.whole_logs(alive)] == [connected.launcher, dead]
    lost.left_empty = True
    assert [path.stem for path in findings.whole_logs(alive)] == [connected.launcher, lost.launcher, dead]
    lost.left_empty = False
    assert [path.stem for path in findings.whole_logs(alive - {lost.launcher})] == [
        connected.launcher,
        lost.launcher,
        dead,
    ]
