"""SIGKILL of daemon, launcher or both at random moments under load; afterwards every promise must have held.

Owns the seed: it is printed, `STOKER_SEED=` plays it again, `STOKER_FAULTS=300` makes it longer, `STOKER_KEEP=DIR`
keeps all files. Refuses to pass when
no fault fired, or when the load never got anything done.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.audit import Audit
from tests.support.daemon import DaemonProcess
from tests.support.facts import until
from tests.support.ledger import Ledger
from tests.support.torture import SETTINGS, Faults, Load, become_quiet, count_fds, zombies_of

if TYPE_CHECKING:
    from collections.abc import Iterator

FAULTS = int(os.environ.get("STOKER_FAULTS", "40"))
SEED = int(os.environ.get("STOKER_SEED", secrets.randbelow(1 << 32)))
KEEP = os.environ.get("STOKER_KEEP")  # a directory to be made, for the state and the ledger of this run
FDS_ALLOWED = 12  # connections to launchers of earlier lives, clients that are just leaving


@pytest.fixture
def daemon() -> Iterator[DaemonProcess]:
    with DaemonProcess(SETTINGS) as started:
        yield started
        if KEEP:
            shutil.copytree(
                started.home, KEEP, symlinks=True, ignore=shutil.ignore_patterns("sock", "*.sock", "notify")
            )


@pytest.mark.timeout(120 + 5 * FAULTS)
def test_promises_when_daemon_and_launchers_are_killed_at_random_under_load_then_all_are_kept(
    daemon: DaemonProcess,
) -> None:
    ledger = Ledger(daemon.home / "ledger")
    load, faults = Load(daemon, ledger, SEED), Faults(daemon, ledger, SEED)
    fds = count_fds(daemon.pid)

    load.start()
    while faults.fired.total() < FAULTS and load.is_alive():
        faults.strike()
    load.finish()
    become_quiet(daemon)
    fds_then, dead = count_fds(daemon.pid), zombies_of(daemon.pid)
    with daemon.client() as client:
        client.call("system.drain", {"stop": True})
    status = daemon.wait()

    audit = Audit(daemon.state_dir / "stoker.db", ledger, faults.killed_launchers)
    sys.stderr.write(
        f"\nSTOKER_SEED={SEED} STOKER_FAULTS={FAULTS}: {dict(faults.fired)}; {dict(load.done)}; {audit.summary()}\n"
    )
    assert status == 0
    assert audit.complaints() == []
    assert audit.unfinished() == []
    assert fds_then <= fds + FDS_ALLOWED
    assert dead == []
    until(lambda: not list(daemon.processes()), why="the end of every process of this instance")
    assert list((daemon.state_dir / "outcomes").glob("*")) == []
    assert faults.fired["daemon"] * faults.fired["launcher"] > 0
    assert load.done["answered"] > 0
