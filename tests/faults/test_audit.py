"""The checks that end every torture: each complains of the breach that it is made for.

Owns one short, real run and the forgeries of its records. The run is over before the first forgery.
"""

from __future__ import annotations

import shutil
import sqlite3
from typing import TYPE_CHECKING

import pytest

from tests.support.audit import Audit
from tests.support.daemon import DaemonProcess
from tests.support.flows import flow, send
from tests.support.ledger import Ledger
from tests.support.torture import SETTINGS, become_quiet
from tests.support.work import submit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

UNGUARD = "DROP TRIGGER checkpoints_are_immutable; DROP TRIGGER checkpoints_keep_their_tail;"
LIES = {
    "an answer for a job that is not there": ("answer k9 9", "is lost"),
    "two jobs for one key": ("answer k1 2", "was answered with jobs"),
    "a job without a key": ("DELETE FROM idempotency WHERE key = 'k1'", "it was stored twice"),
    "an unsafe job that began again": ("append START", "began 2 times after 0 seen ends"),
    "a run that began twice": ("repeat", "began 2 times"),
    "attempts that overlapped": ("append OVERLAP", "while an earlier attempt of its job still lived"),
    "another exit code": ("UPDATE attempts SET exit_code = 3 WHERE job_id = 1", "its own last word"),
    "an end that was not seen": ("UPDATE attempts SET outcome = 'unseen' WHERE job_id = 1", "recorded as unseen"),
    "a state without a change": ("UPDATE jobs SET state = 'cancelled' WHERE id = 1", "its last change says"),
    "a budget that no change tells of": ("UPDATE jobs SET failures = 1 WHERE id = 1", "what its changes say"),
    "a spec that no change tells of": ("UPDATE jobs SET spec_hash = zeroblob(16) WHERE id = 1", "another spec"),
    "a floor that its chain does not know of": (
        "UPDATE jobs SET checkpoint_floor = 2 WHERE step = 'a'",
        "its checkpoints say",
    ),
    "a transition that memory did not know of": (
        f"{UNGUARD} UPDATE checkpoints SET status = 'x' WHERE kind = 'transition'",
        "memory knew",
    ),
    "a checkpoint that is missing": (f"{UNGUARD} DELETE FROM checkpoints WHERE seq = 2", "in place 2"),
    "a checkpoint that was touched": (f"{UNGUARD} UPDATE checkpoints SET status = 'x' WHERE seq = 2", "its checksum"),
    "a checkpoint with another parent": (f"{UNGUARD} UPDATE checkpoints SET parent = 9 WHERE seq = 2", "builds on 9"),
    "a step that its chain does not know of": ("UPDATE jobs SET reason = 'user' WHERE step = 'a'", "checkpoints say"),
    "a transition that nobody recorded": (
        f"{UNGUARD} DELETE FROM checkpoints WHERE seq = (SELECT max(seq) FROM checkpoints WHERE kind = 'step')",
        "its ends of steps",
    ),
    "a workflow that ended before its steps": (
        "UPDATE jobs SET state = 'running', reason = NULL, finished_at = NULL WHERE step = 'b'",
        "its steps are",
    ),
}


@pytest.fixture(scope="module")
def run() -> Iterator[tuple[Path, Ledger]]:
    """Two unsafe jobs and a workflow that succeeded, and their witness."""
    with DaemonProcess(SETTINGS) as daemon:
        ledger = Ledger(daemon.home / "ledger")
        with daemon.client() as client:
            for key in ("k1", "k2"):
                ledger.answer(key, submit(client, ledger.send(key, ledger.spec(key))))
            steps = {"a": ledger.spec("k3"), "b": {**ledger.spec("k3"), "needs": ["a"]}}
            for step in steps.values():
                del step["idempotency_key"]
            answer = send(client, ledger.send("k3", flow(steps)), idempotency_key="k3")
            ledger.answer("k3", answer["steps"]["a"])
        become_quiet(daemon)
        assert daemon.stop() == 0
        yield daemon.state_dir / "stoker.db", ledger


def test_audit_when_nothing_was_forged_then_it_has_no_complaint(run: tuple[Path, Ledger]) -> None:
    audit = Audit(*run)

    assert [*audit.complaints(), *audit.unfinished()] == []


@pytest.mark.parametrize("lie", LIES)
def test_audit_when_something_was_forged_then_it_is_named(run: tuple[Path, Ledger], tmp_path: Path, lie: str) -> None:
    forgery, complaint = LIES[lie]
    database, honest = run
    copy = shutil.copy(database, tmp_path)
    ledger = Ledger(tmp_path / "ledger")
    ledger.sent, ledger.answered = dict(honest.sent), honest.answered.copy()
    work = tmp_path / "ledger" / "work"
    lines = honest.lines()
    first = next(one for one in lines if one.what == "START" and one.job == 1)
    written = [
        f"{line.what} {line.run_id} {line.pid} {line.at} {'-' if line.code is None else line.code}" for line in lines
    ]

    match forgery.split():
        case ["answer", key, job]:
            ledger.answered[key] = [*ledger.answered.get(key, []), int(job)]
        case ["append", what]:
            written.append(f"{what} {'1.2.beef' if what == 'START' else first.run_id} 1 1 -")
        case ["repeat"]:
            written.append(f"START {first.run_id} 1 1 -")
        case _:
            with sqlite3.connect(copy) as connection:
                connection.executescript(forgery)
            connection.close()
    work.write_text("".join(f"{line}\n" for line in written))

    assert [each for each in Audit(tmp_path / "stoker.db", ledger).complaints() if complaint in each]
