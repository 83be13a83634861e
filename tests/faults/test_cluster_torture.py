"""A daemon whose jobs run on a real Slurm, while both are killed: each run starts once and has an honest end.

Owns the order of the faults: each kind once, then as the seed draws them. It takes as long as Slurm likes, so only
`make torture-cluster` runs it, which sets STOKER_CLUSTER_JOBS.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support import slurm as slurm_support
from tests.support import strace
from tests.support.cluster_faults import AT_ONCE, SETTINGS, ClusterFaults
from tests.support.daemon import DaemonProcess
from tests.support.slurm import Slurm

if TYPE_CHECKING:
    from pathlib import Path

JOBS = int(os.environ.get("STOKER_CLUSTER_JOBS", "0"))
MISSING = "`make torture-cluster` runs it" if not JOBS else slurm_support.why_not() or strace.why_not()

pytestmark = [
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
    pytest.mark.timeout(600 + 5 * JOBS),
]


@pytest.mark.long
def test_promises_when_slurm_and_the_daemon_are_killed_then_all_are_kept(seed: int, tmp_path: Path) -> None:
    with Slurm() as slurm:
        daemon = DaemonProcess(environ=slurm.environ)
        daemon.config.write_text(SETTINGS.format(home=daemon.home))
        with daemon:
            faults = ClusterFaults(daemon, slurm, seed, tmp_path)
            faults.explore()
            fates = faults.dice.sample(sorted(faults.fates), len(faults.fates))
            while fates or len(faults.ledger.sent) < JOBS:
                faults.submit(AT_ONCE)
                faults.strike(fates.pop() if fates else faults.dice.choice(sorted(faults.fates)))

            complaints = faults.complaints()

    sys.stderr.write(f"\nSTOKER_SEED={seed} {dict(faults.fired)}: {faults.summary}\n")
    assert complaints == []
    assert {"daemon", "controller", "node daemon", "node"} <= faults.fired.keys()
