"""Jobs that cannot run: the error names the path of the field, over the socket and on the command line.

Owns the mistakes in a job's spec and in verbs. tests/engine/test_submit.py has batches with a wrong job.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.work import end_of, submit

if TYPE_CHECKING:
    from pathlib import Path

    import stoker
    from tests.support.daemon import DaemonProcess
    from tests.support.rpc import RawClient
    from tests.support.work import Gate

DAY_MS = 86_400_000
untouched = pytest.mark.usefixtures("untouched")
OK: dict[str, Any] = {"command": "true"}

WRONG = {
    "unknown field": ({**OK, "colour": "red"}, "invalid_params", "colour"),
    "near miss": ({**OK, "timeout": 5}, "invalid_params", "timeout"),
    "missing command": ({"args": []}, "invalid_params", "command"),
    "empty command": ({"command": ""}, "invalid_params", "command"),
    "command of wrong type": ({"command": ["true"]}, "invalid_params", "command"),
    "args of wrong type": ({**OK, "args": "x"}, "invalid_params", "args"),
    "one arg of wrong type": ({**OK, "args": ["x", 1]}, "invalid_params", "args[1]"),
    "argv too long": ({**OK, "args": ["x" * 60_000] * 3}, "invalid_params", "args"),
    "number as text": ({**OK, "priority": "5"}, "invalid_params", "priority"),
    "fraction": ({**OK, "timeout_ms": 1.5}, "invalid_params", "timeout_ms"),
    "true as number": ({**OK, "max_attempts": True}, "invalid_params", "max_attempts"),
    "relative working_dir": ({**OK, "working_dir": "tmp"}, "invalid_params", "working_dir"),
    "missing working_dir": ({**OK, "working_dir": "/nowhere/at/all"}, "invalid_params", "working_dir"),
    "working_dir is a file": ({**OK, "working_dir": __file__}, "invalid_params", "working_dir"),
    "command not found": ({"command": "no-such-command-here"}, "invalid_params", "command"),
    "command not there": ({"command": "/no/such/file"}, "invalid_params", "command"),
    "command is a directory": ({"command": "/etc"}, "invalid_params", "command"),
    "command is not executable": ({"command": __file__}, "invalid_params", "command"),
    "command not along the job's own PATH": ({**OK, "env": {"PATH": "/nowhere"}}, "invalid_params", "command"),
    "empty condition": ({**OK, "wait_for": ""}, "invalid_params", "wait_for"),
    "unknown queue": ({**OK, "queue": "nowhere"}, "queue_not_found", "queue"),
    "queue is no name": ({**OK, "queue": "a b"}, "invalid_params", "queue"),
    "negative timeout": ({**OK, "timeout_ms": -1}, "invalid_params", "timeout_ms"),
    "timeout of nothing": ({**OK, "timeout_ms": 0}, "invalid_params", "timeout_ms"),
    "absurd timeout": ({**OK, "timeout_ms": 10**15}, "invalid_params", "timeout_ms"),
    "negative ttl": ({**OK, "ttl_ms": -5}, "invalid_params", "ttl_ms"),
    "negative grace": ({**OK, "grace_ms": -5}, "invalid_params", "grace_ms"),
    "negative delay": ({**OK, "base_delay_ms": -5}, "invalid_params", "base_delay_ms"),
    "deadline in seconds": ({**OK, "deadline": 1_900_000_000}, "invalid_params", "deadline"),
    "deadline in microseconds": ({**OK, "deadline": 1_900_000_000_000_000}, "invalid_params", "deadline"),
    "deadline passed": ({**OK, "deadline": 1_600_000_000_000}, "invalid_params", "deadline"),
    "run_at negative": ({**OK, "run_at": -1}, "invalid_params", "run_at"),
    "no attempts": ({**OK, "max_attempts": 0}, "invalid_params", "max_attempts"),
    "shrinking backoff": ({**OK, "backoff_factor": 0.5}, "invalid_params", "backoff_factor"),
    "exit code out of range": ({**OK, "success_exit_codes": [256]}, "invalid_params", "success_exit_codes[0]"),
    "unknown word": ({**OK, "on_orphan": "pray"}, "invalid_params", "on_orphan"),
    "env name with =": ({**OK, "env": {"A=B": "1"}}, "invalid_params", "env.A=B"),
    "env name empty": ({**OK, "env": {"": "1"}}, "invalid_params", "env."),
    "env name with digit first": ({**OK, "env": {"1A": "1"}}, "invalid_params", "env.1A"),
    "env value no text": ({**OK, "env": {"A": 1}}, "invalid_params", "env.A"),
    "reserved STOKER_": ({**OK, "env": {"STOKER_RUN_ID": "1"}}, "invalid_params", "env.STOKER_RUN_ID"),
    "reserved STOKER_ of ours alone": ({**OK, "env": {"STOKER_MINE": "1"}}, "invalid_params", "env.STOKER_MINE"),
    "reserved NOTIFY_SOCKET": ({**OK, "env": {"NOTIFY_SOCKET": "/x"}}, "invalid_params", "env.NOTIFY_SOCKET"),
    "dangerous LD_PRELOAD": ({**OK, "env": {"LD_PRELOAD": "/x.so"}}, "invalid_params", "env.LD_PRELOAD"),
    "too many variables": ({**OK, "env": {f"V{n}": "" for n in range(257)}}, "invalid_params", "env"),
    "nice out of range": ({**OK, "nice": 20}, "invalid_params", "nice"),
    "need unknown": ({**OK, "needs": [10**9]}, "job_not_found", "needs[0]"),
    "need of itself by zero": ({**OK, "needs": [0]}, "invalid_params", "needs[0]"),
    "need with unknown end": ({**OK, "needs": [{"job": 1, "on": "maybe"}]}, "invalid_params", "needs[0].on"),
    "unknown resource": ({**OK, "resources": {"gpu": 1}}, "resource_not_found", "resources.gpu"),
    "unknown handler": ({**OK, "execution_mode": "in_process"}, "handler_not_found", "command"),
    "unknown mode": ({**OK, "execution_mode": "cluster"}, "invalid_params", "execution_mode"),
    "unknown limit": ({**OK, "limits": {"memory": 1}}, "invalid_params", "limits.memory"),
    "too little memory for any program": (
        {**OK, "limits": {"memory_bytes": 1}},
        "invalid_params",
        "limits.memory_bytes",
    ),
    "warning of nothing": ({**OK, "warn_before_ms": 1}, "invalid_params", "warn_before_ms"),
    "warning that kills": (
        {**OK, "warn_signal": 9, "warn_before_ms": 1, "timeout_ms": 9},
        "invalid_params",
        "warn_signal",
    ),
    "silence of one who owes no sign": ({**OK, "unresponsive_kill_ms": 9}, "invalid_params", "unresponsive_kill_ms"),
    "delay beyond the longest": ({**OK, "base_delay_ms": 2, "max_delay_ms": 1}, "invalid_params", "base_delay_ms"),
    "malformed traceparent": ({**OK, "traceparent": "00-xyz"}, "invalid_params", "traceparent"),
}


@untouched
@pytest.mark.parametrize("what", WRONG)
def test_submit_when_the_spec_is_wrong_then_the_error_has_code_and_path(raw: RawClient, what: str) -> None:
    spec, code, path = WRONG[what]

    data = raw.ask("job.submit", **spec)["error"]["data"]

    assert (data["code"], data["path"]) == (code, path)
    assert data["transient"] is False


@untouched
@pytest.mark.parametrize(
    ("method", "params", "path"),
    [
        ("job.get", {}, "id"),
        ("job.get", {"id": "1"}, "id"),
        ("job.get", {"id": 0}, "id"),
        ("job.get", {"id": 2**63}, "id"),
        ("job.cancel", {"id": 1, "force": True}, "force"),
        ("job.retry", {"id": 1, "timeout_ms": -1}, "timeout_ms"),
        ("job.wait", {"ids": []}, "ids"),
        ("job.wait", {"ids": [1], "timeout_ms": -1}, "timeout_ms"),
        ("job.list", {"states": ["sleeping"]}, "states[0]"),
        ("job.list", {"limit": 1001}, "limit"),
        ("job.logs", {"id": 1, "attempt": 0}, "attempt"),
        ("queue.set", {"name": "x", "class": "urgent"}, "class"),
        ("queue.set", {"name": "a/b"}, "name"),
        ("queue.set", {"name": "x", "max_running": -1}, "max_running"),
        ("resource.set", {"name": "x", "capacity": -1}, "capacity"),
        ("system.drain", {"stop": "yes"}, "stop"),
        ("watch", {"after": -1}, "after"),
    ],
)
def test_method_when_its_params_are_wrong_then_the_path_is_named(
    raw: RawClient, method: str, params: dict[str, Any], path: str
) -> None:
    data = raw.ask(method, **params)["error"]["data"]

    assert data.get("path") == path, data


@untouched
@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--timeout", "-5s", "--", "true"], 64, "timeout"),
        (["--timeout", "5", "--", "true"], 64, "5s"),
        (["--timeout", "nonsense", "--", "true"], 64, "timeout"),
        (["--timeout", "0s", "--", "true"], 65, "--timeout 0s: 0ms is less than 1ms, the minimum\nhint: 1ms to 3660d"),
        (["--timeout", "9999d", "--", "true"], 65, "--timeout 9999d: 9999d is more than 3660d, the maximum"),
        (
            ["--deadline", "2020-01-01T00:00Z", "--", "true"],
            65,
            "--deadline 2020-01-01T00:00Z: 2020-01-01T00:00:00Z has",
        ),
        (["--heartbeat", "10m", "--", "true"], 65, "10m is not less than --unresponsive-warn, 30s"),
        (["--limit", "memory=1B", "--", "true"], 65, "--limit memory=1B: 1B is less than 1M, the minimum"),
        (["--env", "A=1", "--env", "STOKER_JOB_ID=1", "--", "true"], 65, "--env STOKER_JOB_ID=1: reserved"),
        (["--env", "LD_PRELOAD=/x.so", "--", "true"], 65, "--env LD_PRELOAD=/x.so: refused"),
        (["--env", "1A=2", "--", "true"], 65, "--env 1A=2: not a name of a variable"),
        (["--label", "a b=c", "--", "true"], 65, "--label 'a b=c': not a valid name"),
        (["--idempotency-key", "", "--", "true"], 65, "--idempotency-key '': expected a string that is not empty"),
        (["--queue", "nowhere", "--", "true"], 65, "default"),
        (["--working-dir", "/nowhere/at/all", "--", "true"], 65, "--working-dir /nowhere/at/all: "),
        (["--after", "999999999:any", "--", "true"], 65, "--after 999999999:any: there is no job 999999999"),
        (["--resource", "gpu=1", "--", "true"], 65, "stoker resource set gpu 1"),
        (["--", "no-such-command-here"], 65, "no-such-command-here"),
        (["--colour", "red", "--", "true"], 64, "colour"),
        ([], 64, "stoker submit"),
    ],
)
def test_command_line_when_it_is_wrong_then_status_and_stderr_explain_it(
    shared: DaemonProcess, arguments: list[str], status: int, words: str
) -> None:
    result = shared.cli("submit", *arguments)

    assert (result.returncode, result.stdout) == (status, ""), result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr


@untouched
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ('{"command": "true"', "line 3: "),
        ('{"command": "/nowhere"}', "line 3: command: /nowhere does not exist; nothing was stored\n"),
    ],
)
def test_command_line_when_a_line_of_a_batch_is_wrong_then_the_line_is_named(
    shared: DaemonProcess, wrong: str, words: str
) -> None:
    lines = [json.dumps(OK), "", wrong, json.dumps(OK)]

    result = shared.cli("submit", "--atomic", "--batch", "-", input="\n".join(lines))

    assert result.returncode == 65
    assert words in result.stderr


def test_queue_when_it_is_full_then_the_command_line_says_try_again(
    shared: DaemonProcess, bystander: stoker.Client
) -> None:
    bystander.call("queue.set", {"name": "shut", "max_queued": 0})

    result = shared.cli("submit", "--queue", "shut", "--", "true")

    assert result.returncode == 75
    assert "max_queued" in result.stderr


def test_command_when_it_vanishes_after_the_submit_then_the_job_fails_at_once(
    bystander: stoker.Client, gate: Gate, tmp_path: Path
) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    needed = submit(bystander, gate.spec())
    job = bystander.submit(str(program), needs=[needed], max_attempts=3)["id"]
    program.unlink()
    gate.open()

    assert end_of(bystander, job) == ("failed", "spawn_error")
    assert bystander.get(job)["attempts"] == 1
