"""Checkpoints with a real daemon: who may save one, how large, what the next attempt gets, and what damage does.

Owns the promises around `checkpoint.save` and around the files that workers get. A worker puts its token where
the test can read it, so every save here is one that a program inside the job could have made.
"""

from __future__ import annotations

import base64
import random
import shutil
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.errors import CheckpointTooLarge, CheckpointTooSoon, InvalidParams, StaleAttempt
from tests.support.daemon import DaemonProcess
from tests.support.facts import until
from tests.support.flows import chain, flow, flow_end, send, step_states
from tests.support.work import Gate, end_of, lines, shell, submit, submit_running

if TYPE_CHECKING:
    from pathlib import Path

    import stoker

PIECE = 512 * 1024


class Saver:
    """A job whose attempts write their token and the checkpoint they got, then wait for the exit code to use."""

    def __init__(self, home: Path) -> None:
        self.tokens, self.given = home / "tokens", home / "given"
        self.gates = [Gate(home / f"gate{number}") for number in range(1, 4)]
        self.script = (
            f'echo "$STOKER_TOKEN" >> {self.tokens}; '
            f'if [ -e "$STOKER_CHECKPOINT" ]; then cat "$STOKER_CHECKPOINT"; else printf none; fi > {self.given}.part; '
            f"mv {self.given}.part {self.given}.$STOKER_ATTEMPT; "
            f"read -r _ < {home}/gate$STOKER_ATTEMPT; exit 1"
        )

    def spec(self, **options: Any) -> dict[str, Any]:
        return shell(self.script, **{"max_attempts": 3, "base_delay_ms": 1, **options})

    def token(self, attempt: int = 1) -> str:
        until(lambda: len(lines(self.tokens)) >= attempt, why=f"the token of attempt {attempt}")
        return lines(self.tokens)[attempt - 1]

    def seen(self, attempt: int) -> bytes:
        """The content of STOKER_CHECKPOINT in that attempt."""
        path = self.given.with_name(f"given.{attempt}")
        until(path.exists, why=f"attempt {attempt}")
        return path.read_bytes()

    def fail(self, attempt: int) -> None:
        self.gates[attempt - 1].open()


@pytest.fixture
def saver(tmp_path: Path) -> Saver:
    return Saver(tmp_path)


def save(client: stoker.Client, token: str, data: bytes, **options: Any) -> dict[str, Any]:
    """Save a checkpoint in pieces that fit a frame."""
    pieces = [data[at : at + PIECE] for at in range(0, len(data), PIECE)] or [b""]
    answer: dict[str, Any] = {}
    for number, piece in enumerate(pieces):
        part: dict[str, Any] = {"data": base64.b64encode(piece).decode(), "offset": number * PIECE}
        part["more"] = number + 1 < len(pieces)
        part["upload"] = answer.get("upload")
        answer = client.call("checkpoint.save", {"token": token, **part, **options})
    return answer


def edit(daemon: DaemonProcess, sql: str, *values: object) -> None:
    """Change the database of a stopped daemon, as a person with sqlite3 could."""
    with sqlite3.connect(daemon.state_dir / "stoker.db") as database:
        database.execute(sql, values)
    database.close()


def test_checkpoint_when_saved_then_only_the_next_attempt_gets_the_newest(client: stoker.Client, saver: Saver) -> None:
    job = submit(client, saver.spec())
    assert saver.seen(1) == b"none"
    save(client, saver.token(), b"one")
    answer = save(client, saver.token(), b"two", status="half way")
    saver.fail(1)

    assert saver.seen(2) == b"two"
    links = chain(client, job=job)
    assert [(link["seq"], link["kind"], link["status"]) for link in links] == [
        (1, "progress", "saved"),
        (2, "progress", "half way"),
    ]
    assert (answer["id"], answer["seq"], answer["bytes"]) == (links[1]["id"], 2, 3)
    saver.fail(2)
    assert saver.seen(3) == b"two"  # an attempt that saves nothing leaves the one before
    saver.fail(3)
    assert end_of(client, job) == ("failed", "exit")


def test_checkpoint_when_a_step_saves_it_then_it_stands_in_the_chain_of_its_workflow(
    client: stoker.Client, saver: Saver
) -> None:
    answer = send(client, flow({"a": saver.spec(), "b": {**shell("exit 0"), "needs": [{"step": "a", "on": "any"}]}}))
    save(client, saver.token(), b"first")
    saver.fail(1)
    assert saver.seen(2) == b"first"
    save(client, saver.token(2), b"second")
    saver.fail(2)
    assert saver.seen(3) == b"second"
    saver.fail(3)

    assert flow_end(client, answer["id"]) == "failed"
    assert step_states(client, answer["id"]) == {"a": "failed", "b": "succeeded"}
    links = chain(client, workflow=answer["id"])
    assert [link["seq"] for link in links] == list(range(1, len(links) + 1))
    assert [link["step"] for link in links if link["kind"] == "progress"] == ["a", "a"]


def test_save_when_the_attempt_is_over_then_it_is_refused_and_nothing_is_stored(
    client: stoker.Client, saver: Saver
) -> None:
    job = submit(client, saver.spec())
    save(client, saver.token(), b"mine")
    saver.fail(1)
    saver.seen(2)

    with pytest.raises(StaleAttempt):
        save(client, saver.token(1), b"late")

    saver.fail(2)
    assert saver.seen(3) == b"mine"
    assert len(chain(client, job=job)) == 1
    saver.fail(3)


def test_save_when_the_token_is_anothers_or_made_up_then_it_is_refused(
    client: stoker.Client, saver: Saver, daemon: DaemonProcess, tmp_path: Path
) -> None:
    job = submit(client, saver.spec())
    run_id, _, mac = saver.token().rpartition(":")
    (tmp_path / "elsewhere").mkdir()
    elsewhere = Saver(tmp_path / "elsewhere")
    with daemon.client() as other:
        submit(other, elsewhere.spec())
        foreign = elsewhere.token()  # the same job id, an attempt that is open: of another instance

        for token in ("", "1", mac, f"{run_id}:", f"{run_id}:{'0' * 32}", f"999.1.0:{mac}", foreign, f"{run_id}:é"):
            with pytest.raises(StaleAttempt):
                save(client, token, b"x")

    assert chain(client, job=job) == []
    for number in (1, 2, 3):
        saver.fail(number)


@pytest.mark.parametrize(("size", "encoding"), [(0, "plain"), (100_000, "plain"), (100_001, "gzip")])
def test_checkpoint_when_it_is_large_then_it_is_packed_and_comes_back_byte_for_byte(
    client: stoker.Client, saver: Saver, size: int, encoding: str
) -> None:
    data = random.Random(size).randbytes(size // 2) + b"\0" * (size - size // 2)
    job = submit(client, saver.spec(max_attempts=2))

    ident = save(client, saver.token(), data)["id"]

    (link,) = chain(client, job=job)
    assert (link["encoding"], link["bytes"]) == (encoding, size)
    assert client.checkpoint_data(ident) == data
    saver.fail(1)
    assert saver.seen(2) == data
    saver.fail(2)


def test_checkpoint_when_it_has_ten_megabytes_then_it_is_kept_and_no_byte_more(
    client: stoker.Client, saver: Saver
) -> None:
    data = random.Random(1).randbytes(1_000) * 10_000
    job = submit(client, saver.spec(max_attempts=2))

    save(client, saver.token(), data)
    with pytest.raises(CheckpointTooLarge):
        save(client, saver.token(), data + b"1")

    assert [link["bytes"] for link in chain(client, job=job)] == [10_000_000]
    saver.fail(1)
    assert saver.seen(2) == data
    saver.fail(2)


def test_pieces_when_one_is_missing_or_no_base64_then_the_upload_may_begin_anew(
    client: stoker.Client, saver: Saver
) -> None:
    job = submit(client, saver.spec(max_attempts=1))
    token = saver.token()
    piece = {"token": token, "data": base64.b64encode(b"ab").decode()}

    begun = client.call("checkpoint.save", {**piece, "more": True})
    assert begun["received"] == 2
    with pytest.raises(InvalidParams, match="upload: missing"):
        client.call("checkpoint.save", {**piece, "offset": 2})
    for wrong in ("offset: 3, but 2 bytes", "there is no upload"):  # one that went wrong is over
        with pytest.raises(InvalidParams, match=wrong):
            client.call("checkpoint.save", {**piece, "offset": 3, "upload": begun["upload"]})
    for data in ("ab!", "é\u2028"):
        with pytest.raises(InvalidParams, match="base64"):
            client.call("checkpoint.save", {"token": token, "data": data})

    assert save(client, token, b"anew")["bytes"] == 4
    assert len(chain(client, job=job)) == 1
    saver.fail(1)


def test_interval_when_a_job_saves_too_often_then_the_error_says_when_to_try_again(tmp_path: Path) -> None:
    saver = Saver(tmp_path)
    with DaemonProcess("[checkpoints]\nmin_interval_ms = 600000\n") as daemon, daemon.client() as client:
        submit(client, saver.spec())
        save(client, saver.token(), b"one")

        with pytest.raises(CheckpointTooSoon) as refused:
            save(client, saver.token(), b"two")

        assert 0 < refused.value.details["retry_after_ms"] <= 600_000
        saver.fail(1)
        saver.seen(2)
        save(client, saver.token(2), b"another attempt has an interval of its own")


def test_checkpoint_when_damaged_then_the_one_before_is_handed_on_with_a_warning(
    daemon: DaemonProcess, saver: Saver
) -> None:
    with daemon.client() as client:
        job = submit(client, saver.spec(on_orphan="requeue"))
        save(client, saver.token(), b"sound")
        ident = save(client, saver.token(), b"touched later")["id"]
        with pytest.raises(sqlite3.IntegrityError, match="immutable"):
            edit(daemon, "UPDATE checkpoints SET data = x'00' WHERE id = ?", ident)
    daemon.kill9()
    with sqlite3.connect(daemon.state_dir / "stoker.db") as database:
        (trigger,) = database.execute(
            "SELECT sql FROM sqlite_master WHERE name = 'checkpoints_are_immutable'"
        ).fetchone()
    database.close()
    edit(daemon, "DROP TRIGGER checkpoints_are_immutable")
    edit(daemon, "UPDATE checkpoints SET data = CAST('toughed later' AS BLOB) WHERE id = ?", ident)
    edit(daemon, trigger)

    daemon.start()

    assert saver.seen(2) == b"sound"
    warned = daemon.logged("checkpoint_damaged")
    assert [(event["job"], event["checkpoint"], event["level"]) for event in warned] == [(job, ident, "warning")]


def test_checkpoint_when_edited_or_inserted_by_hand_then_the_database_refuses(
    daemon: DaemonProcess, saver: Saver
) -> None:
    with daemon.client() as client:
        submit(client, saver.spec())
        ident = save(client, saver.token(), b"x")["id"]

    for column in ("data", "checksum", "status", "seq"):
        with pytest.raises(sqlite3.IntegrityError, match="immutable"):
            edit(daemon, f"UPDATE checkpoints SET {column} = {column} WHERE id = ?", ident)
    copied = "kind, status, version, at, encoding, size, data, checksum"
    with pytest.raises(sqlite3.IntegrityError, match="gapless"):
        edit(daemon, f"INSERT INTO checkpoints (chain, seq, {copied}) SELECT chain, seq + 2, {copied} FROM checkpoints")


def test_save_when_refused_then_it_is_logged_and_counted(daemon: DaemonProcess) -> None:
    with daemon.client() as client, pytest.raises(StaleAttempt):
        save(client, "1.1.0:0", b"x")

    (event,) = until(lambda: daemon.events("checkpoint_failed"), why="the warning")
    assert (event["level"], "token" in event["error"]) == ("warning", True), event


def test_checkpoint_when_it_cannot_be_laid_ready_then_the_attempt_waits_for_room(
    daemon: DaemonProcess, saver: Saver
) -> None:
    with daemon.client() as client:
        job = submit(client, saver.spec())
        save(client, saver.token(), b"kept")
        shutil.rmtree(daemon.state_dir / "work")  # as a full disk: a file cannot be made
        saver.fail(1)
        assert daemon.logged("checkpoint_failed")[0]["job"] == job

        (daemon.state_dir / "work").mkdir()

        assert saver.seen(2) == b"kept"


def test_checkpoint_when_it_cannot_be_laid_ready_then_its_job_can_still_be_cancelled(
    daemon: DaemonProcess, saver: Saver
) -> None:
    with daemon.client() as client:
        job = submit(client, saver.spec())
        save(client, saver.token(), b"kept")
        shutil.rmtree(daemon.state_dir / "work")
        saver.fail(1)
        until(lambda: daemon.events("checkpoint_failed"), why="the warning")

        client.cancel(job)

        assert end_of(client, job) == ("cancelled", "user")


def test_files_when_a_run_is_over_then_its_work_directory_is_empty(
    client: stoker.Client, shared: DaemonProcess, saver: Saver
) -> None:
    job = submit_running(client, saver.spec(max_attempts=2))
    save(client, saver.token(), b"x")
    saver.fail(1)
    saver.seen(2)
    saver.fail(2)
    end_of(client, job)

    until(lambda: not list((shared.state_dir / "work").glob(f"{job}.*")), why="its files to be removed")
