"""SIGKILL of daemon, launcher or both at random moments under load; afterwards every promise must have held.

Owns the order of a torture: load, faults, quiet, drain, checks. The faults are divided among several daemons, each with
its own ledger and its own part of the seed, so that all processors help. Refuses to pass when no fault fired, when the
load never got anything done, or when a policy was never at work.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.audit import Audit
from tests.support.descriptors import count_fds
from tests.support.facts import until
from tests.support.ledger import Ledger
from tests.support.torture import FDS_ALLOWED, POLICIES, Faults, Load, become_quiet, zombies_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.daemon import DaemonProcess

PARTS = 4
FAULTS = int(os.environ.get("STOKER_FAULTS", "200")) // PARTS


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that looks like a worker and is not one."""
    environ = {"STOKER_INSTANCE": "0" * 16, "STOKER_RUN_ID": "1.1.0000000000000000", "STOKER_JOB_ID": "1"}
    with subprocess.Popen(["/bin/sleep", "3600"], env=environ) as stranger:
        yield stranger
        stranger.kill()


@pytest.mark.long
@pytest.mark.timeout(300 + 5 * FAULTS)
@pytest.mark.parametrize("part", range(PARTS))
def test_promises_when_daemon_and_launchers_are_killed_at_random_then_all_are_kept(
    tortured: DaemonProcess, seed: int, part: int, bystander: subprocess.Popen[bytes]
) -> None:
    ledger = Ledger(tortured.home / "ledger")
    load, faults = Load(tortured, ledger, seed + part), Faults(tortured, ledger, seed + part)
    fds = count_fds(tortured.pid)

    load.start()
    while faults.fired.total() < FAULTS and load.is_alive():
        faults.strike()
    load.finish()
    faults.finish()
    become_quiet(tortured)
    fds_then, dead = count_fds(tortured.pid), zombies_of(tortured.pid)
    with tortured.client() as client:
        client.call("system.drain", {"stop": True})
    status = tortured.wait()
    relay = tortured.relay
    assert relay is not None
    until(lambda: relay.drained, why="all that was logged")

    audit = Audit(tortured.state_dir / "stoker.db", ledger, faults.killed_launchers, log=tortured.stderr)
    summary = f"{dict(faults.fired)}; {dict(load.done)}; {audit.summary()}"
    sys.stderr.write(f"\nSTOKER_SEED={seed} part {part}, {faults.fired.total()} faults: {summary}\n")
    assert status == 0
    assert audit.complaints() == []
    assert audit.unfinished() == []
    assert (fds_then <= fds + FDS_ALLOWED, dead, bystander.poll()) == (True, [], None)
    until(lambda: not list(tortured.processes()), why="the end of every process of this instance")
    # An outcome log of a launcher that died after it was read is read and removed by the next start.
    assert tortured.restart_quietly() == 0
    assert list((tortured.state_dir / "outcomes").glob("*")) == []
    assert faults.fired["daemon"] * faults.fired["launcher"] > 0
    assert faults.fired["socket"] + faults.fired["hangup"] > 0
    uploading = [key for key in ledger.answered if ledger.sent[key].get("args", [""])[-1] == "uploads"]
    assert min(faults.fired["stderr"], len(uploading)) > 0  # a kill may come before each of them has saved
    assert min(load.done["answered"], load.done["workflow"]) > 0
    assert min(audit.policies()[policy] for policy in POLICIES) > 0
