"""Large workflows under kills of the daemon while several clients pause, resume, retry, skip and roll them back.

Owns the order of it: begin, meddle and strike, then quiet and the questions. Refuses to pass when no fault fired,
before each verb has had its way, or when a workflow does not come to its end.
"""

from __future__ import annotations

import os
import random
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.support import meddling
from tests.support.audit import Audit
from tests.support.facts import until
from tests.support.ledger import Ledger
from tests.support.torture import Faults, become_quiet

if TYPE_CHECKING:
    from tests.support.daemon import DaemonProcess

FAULTS = int(os.environ.get("STOKER_FAULTS", "8"))
FLOWS, STEPS, CLIENTS = (2, 40, 3) if FAULTS < 100 else (4, 200, 5)
BY_THE_FAULTS = {"launcher_lost", "launcher_stuck"}
VERBS = ["workflow.resume", "workflow.retry", "workflow.rollback", "workflow.pause"]


def done(meddlers: list[meddling.Meddler]) -> Counter[str]:
    return sum((meddler.done for meddler in meddlers), Counter[str]())


def all_done(meddlers: list[meddling.Meddler]) -> bool:
    """Whether each of the verbs was accepted at least once."""
    return min(done(meddlers)[verb] for verb in VERBS) > 0


@pytest.mark.timeout(180 + 10 * FAULTS)
def test_workflows_when_commands_and_kills_mix_then_chain_memory_and_rows_agree(
    tortured: DaemonProcess, seed: int
) -> None:
    ledger, dice = Ledger(tortured.home / "ledger"), random.Random(f"workflows {seed}")
    with tortured.client() as client:
        flows = meddling.begun(client, dice, ledger, flows=FLOWS, steps=STEPS)
    meddlers = [meddling.Meddler(tortured, flows, f"{seed} {number}") for number in range(CLIENTS)]
    faults = Faults(tortured, ledger, seed)

    for meddler in meddlers:
        meddler.start()
    while all(meddler.is_alive() for meddler in meddlers) and (faults.fired.total() < FAULTS or not all_done(meddlers)):
        faults.strike()
    for meddler in meddlers:
        meddler.finish()
    faults.finish()
    with tortured.client() as client:
        meddling.furnish(client)
        ends = Counter(meddling.to_its_end(client, workflow, 60 + FAULTS) for workflow in flows)
        become_quiet(tortured)
        used = {one["name"]: (one["used"], one["holders"]) for one in client.call("resource.list")["resources"]}
        client.call("system.drain", {"stop": True})
    assert tortured.wait() == 0

    audit = Audit(tortured.state_dir / "stoker.db", ledger, faults.killed_launchers, log=tortured.stderr)
    summary = f"{dict(faults.fired)}; {dict(done(meddlers))}; {dict(ends)}; {audit.summary()}"
    sys.stderr.write(f"\nSTOKER_SEED={seed} STOKER_FAULTS={FAULTS}: {summary}\n")
    assert audit.complaints() == []
    assert used == dict.fromkeys(meddling.RESOURCES, (0, []))
    assert {event["event"] for event in tortured.events() if event["level"] in {"error", "critical"}} <= BY_THE_FAULTS
    until(lambda: not list(tortured.processes()), why="the end of every process of this instance")
    assert faults.fired["daemon"] > 0
