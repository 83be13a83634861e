"""Log lines: one JSON object each, in order, harmless to terminals, silent about secrets, never an exception."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stoker.telemetry import logs
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import REDACTED, configure, log

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def _silent_afterwards() -> Iterator[None]:
    yield
    configure("critical", "json", io.BytesIO())


@pytest.fixture
def lines() -> Lines:
    stream = io.BytesIO()
    configure("debug", "json", stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def raised(error: Exception) -> Exception:
    try:
        raise error
    except type(error) as caught:
        return caught


def test_log_when_json_then_event_level_and_ts_come_first(lines: Lines) -> None:
    before = time.time()
    log(LogEvent.TASK_FAILED, job=7, attempt=2, queue="bulk", trace_id="ab", exit_code=1)
    (line,) = lines()
    assert list(line) == ["event", "level", "ts", "job", "attempt", "queue", "trace_id", "exit_code"]
    assert (line["event"], line["level"], line["job"]) == ("task_failed", "warning", 7)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["ts"])
    assert before - 0.001 <= datetime.fromisoformat(line["ts"]).timestamp() <= time.time()


def test_log_when_a_field_is_null_then_it_is_left_out(lines: Lines) -> None:
    log(LogEvent.JOB_STARTED, job=1, queue=None)
    assert "queue" not in lines()[0]


def test_log_when_below_the_level_then_nothing_is_written() -> None:
    stream = io.BytesIO()
    configure("warning", "json", stream)
    log(LogEvent.JOB_STARTED)
    log(LogEvent.TASK_FAILED)
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["task_failed"]


def test_log_when_keys_name_secrets_then_their_values_are_redacted_at_any_depth(lines: Lines) -> None:
    secrets = {"Password": "x", "api-key": "x", "AUTHORIZATION": "x", "db_passwd": "x", "private_key": "x"}
    log(LogEvent.JOB_STARTED, api_key="x", STOKER_TOKEN="x", env=secrets, deep=[{"a": {"session_token": "x"}}])
    (line,) = lines()
    assert (line["api_key"], line["STOKER_TOKEN"]) == (REDACTED, REDACTED)
    assert line["env"] == dict.fromkeys(secrets, REDACTED)
    assert line["deep"] == [{"a": {"session_token": REDACTED}}]


def test_log_when_a_struct_holds_a_secret_then_it_is_redacted_too(lines: Lines) -> None:
    login = msgspec.defstruct("Login", [("user", str), ("password", str)])("ann", "hunter2")
    log(LogEvent.JOB_STARTED, login=login)
    assert lines()[0]["login"] == {"user": "ann", "password": REDACTED}


def test_log_when_text_would_move_a_terminal_then_every_such_character_is_escaped() -> None:
    stream = io.BytesIO()
    configure("info", "json", stream)
    text = "\x1b[2J\r\n\x00\x7f\x9b31m\u202e\u2028é✓"
    log(LogEvent.JOB_STARTED, name=text)
    raw = stream.getvalue()
    assert raw.endswith(b"\n")
    assert raw[:-1].decode().isprintable()
    assert json.loads(raw)["name"] == text


def test_log_when_values_are_huge_then_the_line_stays_small(lines: Lines) -> None:
    log(LogEvent.JOB_STARTED, text="x" * 100_000, many=list(range(100_000)), number=10**5_000)
    (line,) = lines()
    assert line["text"] == "x" * 4096 + "… (100000 characters)"
    assert len(line["many"]) == 100
    assert len(json.dumps(line)) < 10_000


def test_log_when_values_cannot_be_encoded_then_the_line_is_written_anyway(lines: Lines) -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError

    nested: list[Any] = []
    nested.append(nested)
    log(
        LogEvent.JOB_STARTED,
        broken=Broken(),
        nested=nested,
        big=2**70,
        nan=float("nan"),
        path=Path("/x"),
        undecodable="\udcff",
        table={1: 2, (3,): 4},
        pieces={5},
    )
    (line,) = lines()
    assert (line["broken"], line["big"], line["nan"], line["path"]) == ("<Broken>", str(2**70), None, "/x")
    assert (line["undecodable"], line["table"], line["pieces"]) == ("\\udcff", {"1": 2, "(3,)": 4}, [5])


def test_log_when_the_text_of_an_error_is_not_unicode_then_its_stack_is_escaped(lines: Lines) -> None:
    log(LogEvent.HANDLER_RAISED, error=ValueError("\udcff"))

    (line,) = lines()

    assert line["stack"].rstrip().endswith("ValueError: \\udcff")


def test_log_when_an_event_is_an_error_then_an_exception_brings_its_stack(lines: Lines) -> None:
    error = raised(ValueError("no"))
    log(LogEvent.STORAGE_FAILED, error=error)
    log(LogEvent.TASK_FAILED, error=error)
    failed, warned = lines()
    assert failed["error"] == warned["error"] == "ValueError: no"
    assert failed["stack"].startswith("Traceback")
    assert "stack" not in warned


def test_log_when_the_standard_library_warns_then_it_is_a_log_event(lines: Lines) -> None:
    logging.getLogger("asyncio").error("task %s failed", 7, exc_info=raised(ValueError("no")))
    # Straight to our handler: pytest's own would raise on this one.
    logs._BRIDGE.handle(logging.makeLogRecord({"levelno": logging.WARNING, "msg": "%d", "args": ("no number",)}))
    logging.getLogger("other").info("not for us")
    first, second = lines()
    assert (first["event"], first["library"], first["message"]) == ("library_message", "asyncio", "task 7 failed")
    assert "ValueError: no" in first["stack"]
    assert second["message"] == "<unreadable message>"


def test_log_when_on_a_console_then_it_is_readable_and_harmless() -> None:
    stream = io.BytesIO()
    configure("info", "console", stream)
    log(LogEvent.TASK_FAILED, job=7, name="a\x1b[2J", password="hunter2")
    log(LogEvent.STORAGE_FAILED, error=raised(ValueError("no")))
    text = stream.getvalue().decode()
    assert "task_failed" in text
    assert "job=7" in text
    assert "hunter2" not in text
    assert "\x1b" not in text
    assert "Traceback (most recent call last):\n" in text


def test_log_when_the_format_is_auto_then_a_pipe_gets_json_and_a_terminal_does_not() -> None:
    script = (
        "import io\n"
        "from stoker.telemetry.logs import configure, flush, log\nfrom stoker.telemetry.events import LogEvent\n"
        "class Tty(io.BytesIO):\n    def isatty(self):\n        return True\n"
        "log(LogEvent.JOB_HELD)\nconfigure()\nlog(LogEvent.JOB_STARTED, job=1)\nflush()\n"
        "tty = Tty()\nconfigure(stream=tty)\nlog(LogEvent.JOB_STARTED, job=1)\nprint(tty.getvalue()[:1] != b'{')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    assert json.loads(done.stderr)["event"] == "job_started"
    assert done.stdout == "True\n"


def test_a_daemon_when_rich_is_installed_then_it_starts_without_loading_it() -> None:
    program = "import sys, stoker.daemon; print('rich' in sys.modules); import rich.console"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert (done.stdout, done.stderr) == ("False\n", ""), "rich is loaded, or cannot be imported any more"
