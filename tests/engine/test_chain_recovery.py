"""Recovery along a chain of checkpoints under a real daemon: from each of a run, and with links damaged or missing.

Owns the answers that a person gets. tests/core tests the rebuild itself.
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
from tests.support.flows import chain, context, job_of, sent_flow, settled, step, workflow_view
from tests.support.work import changes, lines

if TYPE_CHECKING:
    from pathlib import Path

    import stoker
    from tests.support.daemon import DaemonProcess

GUARDS = ("checkpoints_are_immutable", "checkpoints_are_gapless", "checkpoints_keep_their_tail")
DONE = ("succeeded",)


def has_lines(ledger: Path, least: int) -> bool:
    return len(lines(ledger)) >= least


def roll_back(client: stoker.Client, workflow: int, to: int | str, **options: object) -> dict[str, Any]:
    answer: dict[str, Any] = client.call("workflow.rollback", {"id": workflow, "to": to, **options})
    return answer


def harm(daemon: DaemonProcess, sql: str, *values: object) -> None:
    """Change checkpoints of a stopped daemon by SQL, without the triggers that refuse it meanwhile."""
    with closing(sqlite3.connect(daemon.state_dir / "stoker.db")) as database, database:
        guards = [
            (name, database.execute("SELECT sql FROM sqlite_master WHERE name = ?", (name,)).fetchone()[0])
            for name in GUARDS
        ]
        for name, _ in guards:
            database.execute(f"DROP TRIGGER {name}")
        assert database.execute(sql, values).rowcount, "nothing was harmed"
        for _, guard in guards:
            database.execute(guard)


def test_rollback_when_to_any_checkpoint_then_exactly_the_open_steps_run_again(
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
        answer = roll_back(client, workflow, link["id"], redo=True, resume=True)
        assert answer["to"] == {"checkpoint": link["id"], "seq": link["seq"], "damaged": None}
        assert answer["reset"] == missing
        until(partial(has_lines, ledger, len(before) + len(missing)), why="the steps")
        assert settled(client, workflow, "succeeded") == "succeeded"
        assert sorted(lines(ledger)[len(before) :]) == missing
        tried.append(missing)

    assert len(tried) > 3
    assert tried[0] == ["a", "b", "c"]


def test_rollback_when_a_step_had_saved_then_only_saves_before_the_target_count(
    client: stoker.Client, tmp_path: Path
) -> None:
    tokens, given = tmp_path / "tokens", tmp_path / "given"
    script = (
        f'echo $(cat "$STOKER_CHECKPOINT" 2>/dev/null || echo none) >> {given}; echo $STOKER_TOKEN >> {tokens}; '
        "exec sleep 600"
    )
    workflow = sent_flow(client, {"a": step(script, grace_ms=100)})

    def save(attempt: int, text: str) -> int:
        until(lambda: len(lines(tokens)) == attempt, why=f"attempt {attempt}")
        data = base64.b64encode(text.encode()).decode()
        checkpoint: int = client.call("checkpoint.save", {"token": lines(tokens)[-1], "data": data})["id"]
        return checkpoint

    early = save(1, "early")
    late = save(1, "late")
    roll_back(client, workflow, early, resume=True)
    again = save(2, "again")
    roll_back(client, workflow, late, resume=True)
    save(3, "last")
    roll_back(client, workflow, chain(client, workflow=workflow)[0]["id"], resume=True)
    until(lambda: len(lines(given)) == 4, why="the fourth attempt")
    roll_back(client, workflow, again, resume=True)
    until(lambda: len(lines(given)) == 5, why="the fifth attempt")

    assert lines(given) == ["none", "early", "late", "none", "again"]
    client.call("workflow.cancel", {"id": workflow})
    assert settled(client, workflow) == "cancelled"


@pytest.mark.parametrize("restarted", [False, True])
def test_rollback_when_repeated_to_the_latest_then_abandoned_work_stays_abandoned(
    daemon: DaemonProcess, tmp_path: Path, *, restarted: bool
) -> None:
    given = tmp_path / "given"
    saves = (
        f'cat "$STOKER_CHECKPOINT" >> {given} || echo none >> {given}; echo x | stoker checkpoint save; exec sleep 600'
    )
    with daemon.client() as client:
        workflow = sent_flow(client, {"a": step(saves, grace_ms=100, on_orphan="requeue")})
        first = chain(client, workflow=workflow)[0]["id"]
        until(lambda: "progress" in [link["kind"] for link in chain(client, workflow=workflow)], why="what it saved")
        roll_back(client, workflow, first)
        settled(client, workflow, "paused")
    if restarted:
        daemon.kill_and_start()
    with daemon.client() as client:
        roll_back(client, workflow, "latest")
        settled(client, workflow, "paused")

        client.call("workflow.resume", {"id": workflow})

        until(lambda: len(lines(given)) == 2, why="the second attempt")
        assert lines(given) == ["none", "none"]
        assert [change["cause"] for change in changes(client, job_of(client, workflow, "a"))].count("reset") == 1
        client.call("workflow.cancel", {"id": workflow})
        settled(client, workflow, "cancelled")


class Copies:
    """So many workflows that failed alike, one for each checkpoint that such a run leaves; and the daemon is down.

    `done[seq]`: the steps that were completed at a checkpoint, as it was read before anything was harmed.
    """

    def __init__(self, daemon: DaemonProcess, home: Path) -> None:
        self.flag = home / "flag"
        steps = {
            "a": step("exit 0"), "b": step("echo half | stoker checkpoint save", "a"),
            "c": step(f"test -e {self.flag}", "b"),
        }  # fmt: skip
        with daemon.client() as client:
            first = self._failed(client, steps)
            self.links = chain(client, workflow=first)
            states = [context(client, link["id"])["steps"] for link in self.links]
            self.done = [{name for name, stood in each.items() if stood["state"] in DONE} for each in states]
            self.flows = [first, *(sent_flow(client, steps) for _ in self.links[1:])]
            for workflow in self.flows:
                assert settled(client, workflow) == "failed"
            self.ids = [[link["id"] for link in chain(client, workflow=workflow)] for workflow in self.flows]
        assert {len(ids) for ids in self.ids} == {len(self.links)}
        daemon.kill9()
        self.flag.touch()

    def _failed(self, client: stoker.Client, steps: dict[str, dict[str, Any]]) -> int:
        workflow = sent_flow(client, steps)
        assert settled(client, workflow) == "failed"
        return workflow

    def each(self) -> list[tuple[int, list[int], int]]:
        """Each workflow with its checkpoints and the place of the one to damage; each place once."""
        return [(workflow, ids, place) for place, (workflow, ids) in enumerate(zip(self.flows, self.ids, strict=True))]

    def kind(self, place: int) -> str:
        return str(self.links[place]["kind"])

    def goes_back(self, client: stoker.Client, workflow: int, to: int | str, place: int) -> dict[str, Any]:
        """Roll back to that place and let the workflow end; returns the part of the answer about the checkpoint."""
        answer = roll_back(client, workflow, to, redo=True, resume=True)
        assert answer["reset"] == sorted({"a", "b", "c"} - self.done[place]), (workflow, place, answer)
        assert settled(client, workflow, "succeeded") == "succeeded"
        return dict(answer["to"])


def test_chain_when_any_link_is_damaged_then_the_one_before_is_used_with_a_warning(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    copies = Copies(daemon, tmp_path)
    for _, ids, place in copies.each():
        harm(daemon, "UPDATE checkpoints SET status = 'other' WHERE id = ?", ids[place])

    daemon.start()

    fell_back = []
    with daemon.client() as client:
        for workflow, ids, place in copies.each():
            harmed, seq = ids[place], place + 1
            if place == 0:
                with pytest.raises(ChainBroken, match="there is none before it") as refused:
                    roll_back(client, workflow, harmed)
                assert "stoker workflow resume" in str(refused.value.hint)
                client.call("workflow.resume", {"id": workflow, "strategy": "skip"})
                assert settled(client, workflow, "succeeded") == "succeeded"
            elif copies.kind(place) in {"step", "progress"}:  # this kind has no states of steps
                to = copies.goes_back(client, workflow, harmed, place)
                assert to == {"checkpoint": harmed, "seq": seq, "damaged": None}
            else:
                to = copies.goes_back(client, workflow, harmed, place - 1)
                assert to == {"checkpoint": harmed, "seq": seq - 1, "damaged": harmed}
                fell_back.append(harmed)
    assert {copies.kind(place) for _, ids, place in copies.each() if ids[place] in fell_back} == {
        "transition", "context"
    }  # fmt: skip
    for harmed in (*fell_back, copies.ids[0][0]):
        assert daemon.logged("checkpoint_damaged", checkpoint=harmed, level="warning")


def test_chain_when_any_link_is_missing_then_resume_stops_and_its_hint_works(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    copies = Copies(daemon, tmp_path)
    for _, ids, place in copies.each():
        harm(daemon, "DELETE FROM checkpoints WHERE id = ?", ids[place])

    daemon.start()

    last, stopped = len(copies.links) - 1, 0
    with daemon.client() as client:
        for workflow, ids, place in copies.each():
            if place == last:  # the whole context of the end
                to = copies.goes_back(client, workflow, "latest", place - 1)
                assert to == {"checkpoint": ids[place - 1], "seq": place, "damaged": None}
                continue
            if copies.kind(place + 1) == "context":  # nothing before it is needed
                assert copies.goes_back(client, workflow, ids[place + 1], place + 1)["damaged"] is None
                continue
            message = (
                f"builds on checkpoint {ids[place]}, which is not there" if place else "no whole context was found"
            )
            with pytest.raises(ChainBroken, match=message) as refused:
                roll_back(client, workflow, ids[place + 1])
            assert "stoker " in str(refused.value.hint)
            assert workflow_view(client, workflow)["state"] == "failed"
            stopped += 1
            if place:  # as the hint says
                copies.goes_back(client, workflow, ids[place - 1], place - 1)
            else:
                copies.goes_back(client, workflow, "latest", last)
    assert stopped == last - 1


def test_resume_when_the_chain_has_a_gap_then_only_no_verify_goes_on_with_a_warning(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    with daemon.client() as client:
        workflow = sent_flow(client, {"a": step("exit 0"), "b": step(f"test -e {flag}", "a")})
        assert settled(client, workflow) == "failed"
        links = chain(client, workflow=workflow)
    daemon.kill9()
    last_context = [link for link in links if link["kind"] == "context"][-1]
    harm(daemon, "DELETE FROM checkpoints WHERE id = ?", last_context["id"])
    harm(daemon, "DELETE FROM checkpoints WHERE id = ?", links[1]["id"])
    flag.touch()
    daemon.start()

    stopped = daemon.cli("workflow", "resume", str(workflow))

    assert stopped.returncode == 74
    assert f"builds on checkpoint {links[1]['id']}, which is not there" in stopped.stderr
    assert f"stoker workflow resume {workflow} --no-verify" in stopped.stderr
    resumed = daemon.cli("workflow", "resume", str(workflow), "--no-verify")
    assert resumed.returncode == 0
    assert "the states of the steps were taken from the database" in resumed.stderr
    with daemon.client() as client:
        assert settled(client, workflow) == "succeeded"
        context(client, chain(client, workflow=workflow)[-1]["id"])  # whole again from here on


def test_resume_when_a_checkpoint_is_damaged_then_it_reports_it_and_goes_on(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        workflow = sent_flow(client, {"a": step("exit 1")})
        assert settled(client, workflow) == "failed"
        newest = chain(client, workflow=workflow)[-1]
    daemon.kill9()
    harm(daemon, "UPDATE checkpoints SET status = 'other' WHERE id = ?", newest["id"])
    daemon.start()

    resumed = daemon.cli("workflow", "resume", str(workflow))

    assert resumed.returncode == 0
    assert f"checkpoint {newest['id']} is damaged" in resumed.stderr
