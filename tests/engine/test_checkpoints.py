"""Checkpoints with a real daemon: who may save one, how large, what the next attempt gets, and what damage does.

Owns the promises around `checkpoint.save` and around what is handed to workers in files. A worker puts its token where
the test can read it, so every save here is one that a program inside the job could have made.
"""

from __future__ import annotations

import base64
import json
import random
import shutil
import sqlite3
import sys
from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.errors import CheckpointTooLarge, CheckpointTooSoon, InvalidParams, StaleAttempt
from tests.support.daemon import DaemonProcess
from tests.support.facts import until
from tests.support.flows import chain, flow, flow_end, send, step_states, workflow_view
from tests.support.work import Gate, attempts_of, end_of, job_view, lines, shell, submit, submit_running

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


def failed_events(daemon: DaemonProcess, job: int) -> list[dict[str, Any]]:
    """Wait for log lines, which are written a little after the event."""
    return until(
        lambda: [event for event in daemon.events("task_failed") if event["job"] == job], why="the line in the log"
    )


def read_back(client: stoker.Client, ident: int) -> bytes:
    data = b""
    while True:
        piece = client.call("checkpoint.get", {"id": ident, "offset": len(data)})
        data += base64.b64decode(piece["data"])
        if len(data) >= piece["bytes"]:
            return data


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
        (1, "progress", "saved"), (2, "progress", "half way")
    ]  # fmt: skip
    assert (answer["id"], answer["seq"], answer["bytes"]) == (links[1]["id"], 2, 3)
    saver.fail(2)
    assert saver.seen(3) == b"two"  # whoever saved nothing leaves the one before
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
    assert read_back(client, ident) == data
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


def test_interval_when_a_job_saves_too_often_then_it_is_told_when_to_try_again(tmp_path: Path) -> None:
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


# --- what a worker hands on --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("echo nonsense > $STOKER_OUTPUT", "line 1: not key=value"),
        ("echo '[1, 2]' > $STOKER_OUTPUT", "not key=value"),
        ("echo '{\"a\": ' > $STOKER_OUTPUT", "not a JSON object"),
        ("printf 'a=\\377' > $STOKER_OUTPUT", "not UTF-8"),
        ("head -c 70000 /dev/zero | tr '\\0' a > $STOKER_OUTPUT", "the limit is 65536"),
        ("rm -f $STOKER_OUTPUT; mkfifo $STOKER_OUTPUT", "not a regular file"),
        ("rm -f $STOKER_OUTPUT; ln -s /etc/passwd $STOKER_OUTPUT", "not a regular file"),
        ("rm -f $STOKER_OUTPUT; mkdir $STOKER_OUTPUT", "not a regular file"),
    ],
)
def test_output_when_it_is_refused_then_the_step_fails_and_every_answer_says_why(
    shared: DaemonProcess, client: stoker.Client, script: str, complaint: str
) -> None:
    answer = send(client, flow({"a": shell(script), "b": {**shell("exit 0"), "needs": ["a"]}}))
    workflow, job = answer["id"], answer["steps"]["a"]

    assert flow_end(client, workflow) == "failed"

    (attempt,) = attempts_of(client, job)
    assert attempt["error"].startswith("STOKER_OUTPUT: ")
    assert complaint in attempt["error"]
    assert (job_view(client, job)["failures"], attempt["exit_code"]) == (1, 0)
    steps = {
        step["name"]: (step["state"], step["reason"], step["error"])
        for step in workflow_view(client, workflow)["steps"]
    }
    assert steps == {"a": ("failed", "output", attempt["error"]), "b": ("skipped", "dependency", None)}
    why = client.call("job.why", {"id": job})["message"]
    assert why == f"failed: its output for other steps could not be read: {attempt['error']}"
    analysis = client.call("workflow.get", {"id": workflow, "analyse": True})["analysis"]
    assert (analysis["causes"]["output"], attempt["error"] in analysis["message"]) == (["a"], True)
    (event,) = failed_events(shared, job)
    assert (event["reason"], event["error"]) == ("output", attempt["error"])


def test_output_when_a_later_try_can_be_taken_then_the_step_succeeds_with_that(client: stoker.Client) -> None:
    script = 'echo "try=$STOKER_ATTEMPT" > $STOKER_OUTPUT; [ $STOKER_ATTEMPT = 2 ] || echo nonsense >> $STOKER_OUTPUT'

    job = submit(client, shell(script, max_attempts=2, base_delay_ms=1))

    assert end_of(client, job) == ("succeeded", "exit")
    assert [attempt["error"] is None for attempt in attempts_of(client, job)] == [False, True]


def test_inputs_when_too_large_for_an_environment_then_the_file_has_them_all(
    client: stoker.Client, tmp_path: Path
) -> None:
    talks = shell("printf a= > $STOKER_OUTPUT; head -c 60000 /dev/zero | tr '\\0' a >> $STOKER_OUTPUT")
    reads = shell(f'cp "$STOKER_INPUTS_FILE" {tmp_path}/file; env > {tmp_path}/env')

    answer = send(client, flow({"a": talks, "b": talks, "c": {**reads, "needs": ["a", "b"]}}))

    assert flow_end(client, answer["id"]) == "succeeded"
    end = {"state": "succeeded", "reason": "exit", "exit_code": 0, "outputs": {"a": "a" * 60_000}}
    assert json.loads((tmp_path / "file").read_text()) == {"a": end, "b": end}
    environ = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines())
    assert "STOKER_INPUTS" not in environ
    assert (environ["STOKER_WORKFLOW_ID"], environ["STOKER_STEP"]) == (str(answer["id"]), "c")


def test_inputs_when_a_need_has_no_output_then_the_file_says_how_it_ended(
    client: stoker.Client, tmp_path: Path
) -> None:
    reads = shell(f'cp "$STOKER_INPUTS_FILE" {tmp_path}/file; printf %s "$STOKER_INPUTS" > {tmp_path}/variable')
    needs = ["quiet", {"step": "bad", "on": "failed"}]

    answer = send(client, flow({
        "quiet": shell("exit 0"), "bad": {**shell("echo why=disk > $STOKER_OUTPUT; exit 3"), "critical": False},
        "last": {**reads, "needs": needs},
    }))  # fmt: skip

    assert flow_end(client, answer["id"]) == "succeeded"
    assert json.loads((tmp_path / "file").read_text()) == {
        "quiet": {"state": "succeeded", "reason": "exit", "exit_code": 0, "outputs": {}},
        "bad": {"state": "failed", "reason": "exit", "exit_code": 3, "outputs": {"why": "disk"}},
    }
    assert json.loads((tmp_path / "variable").read_text()) == {"bad": {"why": "disk"}}


def test_inputs_when_many_needs_hand_on_much_then_all_of_them_arrive(client: stoker.Client, tmp_path: Path) -> None:
    talk = shell('printf "a=%02000d" 0 > $STOKER_OUTPUT')
    steps = {f"s{number:04d}": talk for number in range(150)}
    reads = {**shell(f'cp "$STOKER_INPUTS_FILE" {tmp_path}/file'), "needs": list(steps)}

    answer = send(client, flow({**steps, "last": reads}))

    assert flow_end(client, answer["id"]) == "succeeded"
    inputs = json.loads((tmp_path / "file").read_text())
    assert {name: len(end["outputs"]["a"]) for name, end in inputs.items()} == dict.fromkeys(steps, 2_000)


def test_inputs_when_a_job_needs_nothing_then_its_file_is_there_and_read_only(
    client: stoker.Client, shared: DaemonProcess, tmp_path: Path
) -> None:
    job = submit(client, shell(f'cat "$STOKER_INPUTS_FILE" > {tmp_path}/file; env > {tmp_path}/env'))

    assert end_of(client, job) == ("succeeded", "exit")
    assert (tmp_path / "file").read_text() == "{}\n"
    assert not {"STOKER_WORKFLOW_ID", "STOKER_STEP"} & {line.partition("=")[0] for line in lines(tmp_path / "env")}
    assert (shared.state_dir / "work" / "none").stat().st_mode & 0o777 == 0o400


# --- why a failure failed ----------------------------------------------------------------------------------

TRACEBACK = """
def inner():
    raise ValueError("no such colour")
print("before", flush=True)
try:
    raise KeyError("first")
except KeyError:
    pass
inner()
"""


@pytest.mark.parametrize(
    ("spec", "begins", "ends"),
    [
        (shell("echo one; echo 'disk is full' >&2; exit 3"), "one\n", "disk is full"),
        (shell("echo gone >&2; kill -9 $$"), "gone", "gone"),
        ({"command": sys.executable, "args": ["-c", TRACEBACK]}, "Traceback (most", "ValueError: no such colour"),
        (shell("printf 'a\\377\\000b'; exit 1"), "a\ufffd\ufffdb", "b"),
    ],
    ids=["lines", "signal", "traceback", "binary"],
)
def test_failure_when_a_step_fails_by_itself_then_its_record_tells_what_it_said_last(
    client: stoker.Client, shared: DaemonProcess, spec: dict[str, Any], begins: str, ends: str
) -> None:
    answer = send(client, flow({"a": spec}))

    assert flow_end(client, answer["id"]) == "failed"

    (end,) = [one for one in chain(client, workflow=answer["id"]) if one["kind"] == "step"]
    error = json.loads(read_back(client, end["id"]))["error"]
    assert (error[: len(begins)], error[-len(ends) :]) == (begins, ends)
    assert client.history(answer["steps"]["a"])["attempts"][0]["error"] == error
    (event,) = failed_events(shared, answer["steps"]["a"])
    assert "error" not in event  # what a job writes may be confidential: it is not for the daemon's own log


def test_failure_when_its_log_is_long_then_its_record_is_bounded(client: stoker.Client) -> None:
    job = submit(client, shell("seq 100000; exit 1"))

    end_of(client, job)

    error = attempts_of(client, job)[0]["error"]
    assert (error[-6:], len(error) <= 2_000) == ("100000", True)


@pytest.mark.parametrize("script", ["echo fine; exit 0", "exit 3"])
def test_failure_when_there_is_none_or_it_said_nothing_then_there_is_no_error(
    client: stoker.Client, script: str
) -> None:
    job = submit(client, shell(script))

    end_of(client, job)

    assert attempts_of(client, job)[0]["error"] is None


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
