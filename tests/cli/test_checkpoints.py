"""Checkpoints on the command line and in Python, from inside real jobs and from outside."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stoker import checkpoint
from stoker.core import outputs
from stoker.core.errors import CheckpointTooLarge, InvalidParams, UsageError
from tests.support import work
from tests.support.facts import DEADLINE_S, until

if TYPE_CHECKING:
    from tests.support.daemon import DaemonProcess


def ran(daemon: DaemonProcess, script: str, *options: str) -> str:
    """The id of a job that ran a shell script and succeeded."""
    done = daemon.cli("run", *options, "--", "sh", "-c", script)
    assert (done.returncode, done.stderr) == (0, "")
    with daemon.client() as client:
        return str(work.newest(client))


def ids(daemon: DaemonProcess, *arguments: str) -> list[str]:
    """Oldest first."""
    return daemon.cli("checkpoint", "ls", *arguments, "--ids", "--all").stdout.split()[::-1]


def test_save_when_a_job_calls_it_then_the_checkpoint_is_listed_shown_and_exported(shared: DaemonProcess) -> None:
    job = ran(
        shared, "printf 'a\\0b' | stoker checkpoint save --status half; echo '{\"n\": 2}' | stoker checkpoint save"
    )
    binary, text = ids(shared, "--job", job)

    listed = shared.cli("checkpoint", "ls", "--job", job)
    shown = json.loads(shared.cli("checkpoint", "show", "--json", text).stdout)
    summary = shared.cli("checkpoint", "show", binary)
    exported = shared.cli("checkpoint", "export", binary)
    chain = [json.loads(line) for line in shared.cli("checkpoint", "export", "--job", job).stdout.splitlines()]

    assert "half" in listed.stdout
    assert (shown["data"], shown["kind"], shown["job"]) == ({"n": 2}, "progress", int(job))
    assert '"binary": true' in summary.stdout
    assert exported.stdout == "a\0b"
    assert [one["data"] for one in chain] == [{"base64": "YQBi"}, {"n": 2}]


def test_diff_when_two_checkpoints_differ_then_only_that_is_shown(shared: DaemonProcess) -> None:
    saves = """for n in 1 2; do printf '{"z": %s, "a": 0}' $n | stoker checkpoint save; done"""
    job = ran(shared, f"{saves}; stoker checkpoint save < /dev/null")
    one, two, empty = ids(shared, f"j{job}")

    differing = shared.cli("checkpoint", "diff", one, two)
    same = shared.cli("checkpoint", "diff", one, one)

    assert [line for line in differing.stdout.splitlines()[2:] if line[0] in "+-"] == ['-  "z": 1', '+  "z": 2']
    assert (same.returncode, same.stdout) == (0, "")
    assert shared.cli("checkpoint", "export", empty).stdout == ""


def test_diff_when_json_is_given_then_each_path_has_both_sides(shared: DaemonProcess) -> None:
    first, second = {"a": [1, {"b": 2}], "c": True, "e": "x"}, {"a": [1, {"b": 3}, 4], "c": 1, "d": None, "e": "x"}
    saves = "; ".join(f"echo '{json.dumps(data)}' | stoker checkpoint save" for data in (first, second, "text"))
    job = ran(shared, f"{saves}; printf 'a\\0' | stoker checkpoint save")
    one, two, text, binary = ids(shared, "--job", job)

    def diff(old: str, new: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(shared.cli("checkpoint", "diff", "--json", old, new).stdout)
        return document

    assert diff(one, two) == {"old": int(one), "new": int(two), "changes": [
        {"path": "a[1].b", "old": 2, "new": 3}, {"path": "a[2]", "new": 4}, {"path": "c", "old": True, "new": 1},
        {"path": "d", "new": None},
    ]}  # fmt: skip
    assert diff(one, one)["changes"] == []
    assert diff(two, text)["changes"] == [{"path": "", "old": second, "new": "text"}]
    assert diff(text, binary)["changes"][0]["new"]["bytes"] == 2


def test_ls_when_a_job_saved_no_checkpoint_then_a_remark_is_printed(shared: DaemonProcess) -> None:
    job = ran(shared, "true")

    done = shared.cli("checkpoint", "ls", "--job", job)

    assert (done.returncode, done.stderr) == (0, f"stoker: job {job} has saved no checkpoint\n")


def test_save_when_no_job_asks_then_it_is_a_usage_error(shared: DaemonProcess) -> None:
    done = shared.cli("checkpoint", "save", input="1")

    assert (done.returncode, done.stdout) == (64, "")
    assert "STOKER_TOKEN" in done.stderr


def test_save_when_it_is_larger_than_the_limit_then_nothing_is_sent(shared: DaemonProcess) -> None:
    # The socket does not exist: an attempt to send would print an error.
    job = ran(shared, "head -c 10000001 /dev/zero | STOKER_SOCKET=/nowhere stoker checkpoint save 2>&1; echo $?")

    assert shared.cli("logs", job).stdout.splitlines() == [
        "stoker: stdin: more than 10000000 bytes, the limit of a checkpoint",
        "hint: write the data to a file and save its path",
        "65",
    ]


def test_save_when_the_data_has_the_largest_size_then_the_next_attempt_gets_it_all(shared: DaemonProcess) -> None:
    script = """
        if [ -e "$STOKER_CHECKPOINT" ]; then md5sum < "$STOKER_CHECKPOINT"; exit 0; fi
        head -c 10000000 /dev/urandom > data; md5sum < data; stoker checkpoint save < data > id; exit 1
    """
    options = ("--max-attempts", "2", "--base-delay", "1ms", "--working-dir", str(shared.home))
    job = ran(shared, script, *options)

    first, second = (shared.cli("logs", job, "--attempt", str(attempt)).stdout for attempt in (1, 2))
    exported = shared.cli(
        "checkpoint", "export", (shared.home / "id").read_text().strip(), "-o", str(shared.home / "out")
    )

    assert first == second != ""
    assert exported.returncode == 0
    assert (shared.home / "out").read_bytes() == (shared.home / "data").read_bytes()


def test_save_when_the_daemon_is_away_then_it_is_tried_until_it_is_back(
    daemon: DaemonProcess, gate: work.Gate, tmp_path: Path
) -> None:
    script = f"echo up > {tmp_path}/up; read _ < {gate.path}; echo 1 | stoker checkpoint save"
    job = daemon.cli("submit", "--survive", "--", "sh", "-c", script).stdout.strip()
    with daemon.client() as client:
        work.running(client, int(job))
    daemon.kill9()
    gate.open()

    daemon.start()

    assert daemon.cli("wait", job).returncode == 0
    assert len(ids(daemon, "--job", job)) == 1


PROGRAM = """
import stoker
data = stoker.checkpoint.load()
if data is None:
    stoker.checkpoint.save({"b": 1, "a": [2]}, status="first")
    stoker.checkpoint.output(rows=3, name="x")
    stoker.checkpoint.output(more="yes")
    raise SystemExit(1)
print(data.decode(), stoker.checkpoint.inputs())
stoker.checkpoint.output(rows=4)
"""


def test_python_when_a_job_uses_it_then_state_and_values_are_handed_on(shared: DaemonProcess) -> None:
    first = {"command": sys.executable, "args": ["-c", PROGRAM], "max_attempts": 2, "base_delay_ms": 1}
    reader = "import stoker; print(stoker.checkpoint.inputs())"
    then = {"command": sys.executable, "args": ["-c", reader], "needs": ["first"]}
    flow = {"name": "py", "steps": {"first": first, "then": then}}
    with shared.client() as client:
        accepted = client.submit_workflow(flow)
        ids_of = accepted["steps"]
        assert accepted["id"] is not None
        client.wait(*(job for job in ids_of.values() if job))
        logs = [b"".join(client.logs(job)).decode() for job in ids_of.values() if job]
        saved = [one for one in client.checkpoints(workflow=accepted["id"])["checkpoints"] if one["kind"] == "progress"]
        data = client.checkpoint_data(saved[0]["id"])

    assert logs == ['{"a": [2], "b": 1} {}\n', "{'first': {'rows': '4'}}\n"]
    assert ([one["status"] for one in saved], data) == (["first"], b'{"a": [2], "b": 1}')


def test_python_when_it_runs_outside_a_job_then_calls_that_need_a_job_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("TOKEN", "SOCKET", "CHECKPOINT", "OUTPUT", "INPUTS"):
        monkeypatch.delenv(f"STOKER_{name}", raising=False)

    for call in (checkpoint.load, lambda: checkpoint.save(b""), lambda: checkpoint.output(a=1)):
        with pytest.raises(UsageError, match="not a job of Stoker"):
            call()
    assert checkpoint.inputs() == {}


def test_python_when_the_data_is_too_large_then_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_TOKEN", "t")
    monkeypatch.setenv("STOKER_SOCKET", "/nowhere")

    with pytest.raises(CheckpointTooLarge):
        checkpoint.save(bytes(checkpoint.MAX_BYTES + 1))


@pytest.mark.parametrize(
    ("before", "after"),
    [("", {"b": "2"}), ("a=1", {"a": "1", "b": "2"}), ('{"a": 1, "b": 1}', {"a": "1", "b": "2"})],
)
def test_output_when_something_was_handed_on_before_then_it_is_added_to(
    before: str, after: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "output"
    path.write_text(before)
    monkeypatch.setenv("STOKER_OUTPUT", str(path))

    checkpoint.output(b="2")

    assert outputs.read(path.read_bytes()) == after


@pytest.mark.parametrize("value", [float("nan"), object(), "\ud800", "x" * outputs.MAX_BYTES])
def test_output_when_a_value_cannot_be_passed_on_then_it_is_refused_alone(
    value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOKER_OUTPUT", str(tmp_path / "output"))
    checkpoint.output(a=1)

    with pytest.raises(InvalidParams, match="output: "):
        checkpoint.output(b=value)

    assert outputs.read((tmp_path / "output").read_bytes()) == {"a": "1"}


def waits_for_a_lock(pid: int) -> bool:
    return any("->" in line and f" {pid} " in line for line in Path("/proc/locks").read_text().splitlines())


def test_output_when_another_process_hands_on_then_it_waits_and_both_keys_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "output"
    monkeypatch.setenv("STOKER_OUTPUT", str(path))
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        second = subprocess.Popen([sys.executable, "-c", "import stoker; stoker.checkpoint.output(b=2)"])
        until(lambda: waits_for_a_lock(second.pid) or second.poll() is not None, why="the lock of the second")
        waited = second.poll() is None
        file.write(b"a=1\n")

    assert waited
    assert second.wait(DEADLINE_S) == 0
    assert outputs.read(path.read_bytes()) == {"a": "1", "b": "2"}


MANY = """
import sys, threading, stoker
def say(number):
    for time in range(20):
        stoker.checkpoint.output(**{f"k{sys.argv[1]}_{number}": "x" * 100 + str(time)})
threads = [threading.Thread(target=say, args=(number,)) for number in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


def test_output_when_processes_and_threads_hand_on_at_once_then_no_key_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "output"
    monkeypatch.setenv("STOKER_OUTPUT", str(path))

    # Each key comes twenty times, so the file has to be shortened while other threads add to it.
    together = [subprocess.Popen([sys.executable, "-c", MANY, str(number)]) for number in range(3)]
    codes = [each.wait() for each in together]

    keys = {f"k{process}_{thread}": "x" * 100 + "19" for process in range(3) for thread in range(4)}
    assert codes == [0] * 3
    assert outputs.read(path.read_bytes()) == keys
    assert [left.name for left in tmp_path.iterdir()] == ["output"]
