"""Recovery along a chain of checkpoints under a real daemon: from each of a run, and with links damaged or missing.

Owns C6 as a person meets it. What a rebuild makes of links is the core's to test.
"""

from __future__ import annotations

import base64
import sqlite3
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.errors import ChainBroken
from tests.support.facts import until
from tests.support.flows import chain, context, look, sent_flow, settled, stand, step
from tests.support.work import lines

if TYPE_CHECKING:
    from pathlib import Path

    import stoker
    from tests.support.daemon import DaemonProcess

GUARDS = ("checkpoints_are_immutable", "checkpoints_are_gapless")
DONE = ("succeeded",)


def has_lines(ledger: Path, least: int) -> bool:
    return len(lines(ledger)) >= least


def roll_back(client: stoker.Client, workflow: int, to: int | str, **options: object) -> dict[str, Any]:
    said: dict[str, Any] = client.call("workflow.rollback", {"id": workflow, "to": to, **options})
    return said


def harm(daemon: DaemonProcess, sql: str, *values: object) -> None:
    """What nobody should do to the checkpoints of a daemon that is down; the guards are there again behind it."""
    with closing(sqlite3.connect(daemon.state_dir / "stoker.db")) as database, database:
        guards = [
            (name, database.execute("SELECT sql FROM sqlite_master WHERE name = ?", (name,)).fetchone()[0])
            for name in GUARDS
        ]
        for name, _ in guards:
            database.execute(f"DROP TRIGGER {name}")
        assert database.execute(sql, values).rowcount, "nothing was harmed"
        for _, made in guards:
            database.execute(made)


def test_rollback_when_to_each_checkpoint_of_a_run_then_exactly_what_was_not_done_there_runs_again(
    client: stoker.Client, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    steps = {
        "a": step(f"echo a >> {ledger}"), "b": step(f"echo b >> {ledger}", "a"), "c": step(f"echo c >> {ledger}", "a"),
    }  # fmt: skip
    workflow = sent_flow(client, steps)
    assert settled(client, workflow) == "succeeded"
    tried = []

    for link in chain(client, workflow=workflow):
        there = context(client, link["id"])["steps"]
        missing = sorted(name for name, stood in there.items() if stood["state"] not in DONE)
        if not missing:
            continue
        before = lines(ledger)
        said = roll_back(client, workflow, link["id"], redo=True, resume=True)
        assert said["to"] == {"checkpoint": link["id"], "seq": link["seq"], "damaged": None}
        assert said["reset"] == missing
        until(partial(has_lines, ledger, len(before) + len(missing)), 30, why="the steps")
        assert settled(client, workflow, "succeeded") == "succeeded"
        assert sorted(lines(ledger)[len(before) :]) == missing
        tried.append(missing)

    assert len(tried) > 3
    assert tried[0] == ["a", "b", "c"]


def test_rollback_when_a_step_had_saved_then_only_what_was_saved_by_then_counts(
    client: stoker.Client, tmp_path: Path
) -> None:
    tokens, given = tmp_path / "tokens", tmp_path / "given"
    script = (
        f'echo $(cat "$STOKER_CHECKPOINT" 2>/dev/null || echo none) >> {given}; echo $STOKER_TOKEN >> {tokens}; '
        "exec sleep 600"
    )
    workflow = sent_flow(client, {"a": step(script, grace_ms=100)})

    def save(attempt: int, text: str) -> int:
        until(lambda: len(lines(tokens)) == attempt, 30, why=f"attempt {attempt}")
        data = base64.b64encode(text.encode()).decode()
        made: int = client.call("checkpoint.save", {"token": lines(tokens)[-1], "data": data})["id"]
        return made

    early = save(1, "early")
    late = save(1, "late")
    roll_back(client, workflow, early, resume=True)
    again = save(2, "again")
    roll_back(client, workflow, late, resume=True)
    save(3, "last")
    roll_back(client, workflow, chain(client, workflow=workflow)[0]["id"], resume=True)
    until(lambda: len(lines(given)) == 4, 30, why="the fourth attempt")
    roll_back(client, workflow, again, resume=True)
    until(lambda: len(lines(given)) == 5, 30, why="the fifth attempt")

    assert lines(given) == ["none", "early", "late", "none", "again"]
    client.call("workflow.cancel", {"id": workflow})
    assert settled(client, workflow) == "cancelled"


def failed_and_down(daemon: DaemonProcess) -> tuple[int, list[dict[str, Any]]]:
    with daemon.client() as client:
        workflow = sent_flow(client, {"a": step("exit 0"), "b": step("exit 1", "a")})
        assert settled(client, workflow) == "failed"
        links = chain(client, workflow=workflow)
    daemon.kill9()
    return workflow, links


@pytest.mark.parametrize("kind", ["transition", "context"])
def test_chain_when_a_link_is_damaged_then_the_one_before_is_used_with_a_warning(
    daemon: DaemonProcess, kind: str
) -> None:
    workflow, links = failed_and_down(daemon)
    damaged = next(link for link in reversed(links) if link["kind"] == kind and link["seq"] > 1)
    harm(daemon, "UPDATE checkpoints SET status = 'other' WHERE id = ?", damaged["id"])

    daemon.start()

    with daemon.client() as client:
        said = roll_back(client, workflow, damaged["id"])
        assert said["to"] == {"checkpoint": damaged["id"], "seq": damaged["seq"] - 1, "damaged": damaged["id"]}
        settled(client, workflow, "paused")
        assert stand(client, workflow) == {"a": "succeeded", "b": "queued"}
    assert damaged["id"] in [event["checkpoint"] for event in daemon.events("checkpoint_damaged")]


def test_chain_when_a_parent_is_missing_then_it_stops_and_says_what_a_person_can_do(daemon: DaemonProcess) -> None:
    workflow, links = failed_and_down(daemon)
    harm(daemon, "DELETE FROM checkpoints WHERE id = ?", links[2]["id"])

    daemon.start()

    with daemon.client() as client:
        with pytest.raises(ChainBroken, match=f"checkpoint {links[2]['id']}, which is not there") as refused:
            roll_back(client, workflow, links[3]["id"])
        assert "roll back to one before the gap" in str(refused.value.hint)
        assert look(client, workflow)["state"] == "failed"
        roll_back(client, workflow, links[1]["id"])
        assert settled(client, workflow, "paused") == "paused"


def test_chain_when_its_very_beginning_is_damaged_then_it_stops_and_says_what_a_person_can_do(
    daemon: DaemonProcess,
) -> None:
    workflow, links = failed_and_down(daemon)
    harm(daemon, "UPDATE checkpoints SET status = 'other' WHERE id = ?", links[0]["id"])

    daemon.start()

    with daemon.client() as client:
        with pytest.raises(ChainBroken, match="there is none before it") as refused:
            roll_back(client, workflow, links[1]["id"])
        assert "stoker workflow resume" in str(refused.value.hint)
        client.call("workflow.resume", {"id": workflow, "strategy": "skip"})
        assert settled(client, workflow, "succeeded") == "succeeded"
