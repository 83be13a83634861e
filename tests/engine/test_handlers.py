"""In-process jobs: handlers of a module that the settings name, run inside the daemon.

Owns the outcome of each end: return, exception, transient, cancel, exit, and the death of the daemon under them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.errors import FlowInvalid, HandlerNotFound
from stoker.daemon import DEFAULT_THREADS
from stoker.executors.handlers import Call, handler
from tests.support.daemon import DaemonProcess
from tests.support.facts import until
from tests.support.work import attempts_of, changes, end_of, job_view, lines, state, submit

if TYPE_CHECKING:
    from pathlib import Path

    import stoker

MODULES = {
    "orders": """
import asyncio
import pathlib
import sys

from stoker import Call, Transient, handler


@handler("note")
async def note(call: Call) -> None:
    with open(call.args[0], "a") as ledger:
        ledger.write(f"{call.job_id} {call.run_id}\\n")


@handler("events")
async def events(call: Call) -> None:
    for name, event in sorted(call.events.items()):
        print(name, event["data"], sorted(event), file=open(call.args[0], "a"))
    if call.run_id.split(".")[1] == "1":
        raise Transient("once more")


@handler("fail")
async def fail(call: Call) -> None:
    raise ValueError("of no use: " + " ".join(call.args))


@handler("mojibake")
async def mojibake(call: Call) -> None:
    raise ValueError("\\ud800 and \\udcff")


@handler("flaky")
async def flaky(call: Call) -> None:
    await note(call)
    if len(pathlib.Path(call.args[0]).read_text().splitlines()) < 3:
        raise Transient("not yet")


@handler("stay")
async def stay(call: Call) -> None:
    await note(call)
    await asyncio.Event().wait()


@handler("stubborn")
async def stubborn(call: Call) -> None:
    await note(call)
    for _ in range(2):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await note(call)
    await asyncio.Event().wait()


@handler("take-threads")
async def take_threads(call: Call) -> None:
    def wait_for_writer() -> None:
        with open(call.args[0], "a") as ledger:
            ledger.write("thread\\n")
        open(call.args[1]).close()

    await asyncio.gather(*(asyncio.to_thread(wait_for_writer) for _ in range(int(call.args[2]))))


@handler("await-cancelled")
async def await_cancelled(call: Call) -> None:
    work = asyncio.ensure_future(asyncio.Event().wait())
    work.cancel("by another part of the program")
    await work


@handler("leave")
async def leave(call: Call) -> None:
    sys.exit(3)


@handler("stay-once")
async def stay_once(call: Call) -> None:
    await note(call)
    if len(pathlib.Path(call.args[0]).read_text().splitlines()) == 1:
        await asyncio.Event().wait()
"""
}
SETTINGS = '[daemon]\nhandlers = ["orders"]\n'


def call(client: stoker.Client, name: str, *args: str, **options: object) -> int:
    return submit(client, {"command": name, "args": list(args), "execution_mode": "in_process"}, **options)


def test_handler_when_it_returns_then_the_job_has_succeeded(client: stoker.Client, tmp_path: Path) -> None:
    job = call(client, "note", str(tmp_path / "ledger"))

    assert end_of(client, job) == ("succeeded", "exit")

    (attempt,) = attempts_of(client, job)
    assert lines(tmp_path / "ledger") == [f"{job} {attempt['run_id']}"]
    assert attempt["launcher"] == "in-process"


def test_handler_when_it_raises_then_the_job_fails_for_good_with_the_traceback(client: stoker.Client) -> None:
    job = call(client, "fail", "at all", max_attempts=5)

    assert end_of(client, job) == ("failed", "exit")

    (attempt,) = attempts_of(client, job)
    assert attempt["outcome"] == "exception"
    assert "ValueError: of no use: at all" in attempt["error"]


def test_handler_when_it_takes_all_threads_of_the_loop_then_status_answers(
    client: stoker.Client, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    job = call(client, "take-threads", str(tmp_path / "ledger"), str(tmp_path / "fifo"), str(DEFAULT_THREADS))
    until(lambda: len(lines(tmp_path / "ledger")) == DEFAULT_THREADS)
    try:
        assert client.status()["running"] == 1
    finally:
        (tmp_path / "fifo").write_text("")
    assert end_of(client, job) == ("succeeded", "exit")


def test_handler_when_it_raises_then_its_log_has_the_stack(
    client: stoker.Client, shared: DaemonProcess, tmp_path: Path
) -> None:
    tried_again = call(client, "flaky", str(tmp_path / "ledger"), max_attempts=5, base_delay_ms=1)
    failed = call(client, "fail", "with a stack")

    assert end_of(client, tried_again) == ("succeeded", "exit")
    assert end_of(client, failed) == ("failed", "exit")

    (event,) = shared.logged("handler_raised", job=failed)
    assert event["command"] == "fail"
    assert [event for event in shared.events("handler_raised") if event["job"] == tried_again] == []
    assert "in fail" in str(event)


@pytest.mark.parametrize(
    ("code", "mistake"),
    [
        ("@stoker.handler('a')\ndef a(call): pass", "TypeError: the in-process handler 'a' is not an async function"),
        ("for _ in 'ab': stoker.handler('a')(noop)", "ValueError: two in-process handlers are called 'a'"),
    ],
)
def test_start_when_a_handler_cannot_be_registered_then_it_is_refused(
    stopped_daemon: DaemonProcess, code: str, mistake: str
) -> None:
    stopped_daemon.add_module("orders", f"import stoker\nasync def noop(call): pass\n{code}\n")

    stopped_daemon.spawn()

    assert stopped_daemon.wait() == 78
    assert f"daemon.handlers: orders: {mistake}" in stopped_daemon.stderr.read_text()


def test_handler_when_it_raises_then_why_and_logs_say_what(client: stoker.Client, shared: DaemonProcess) -> None:
    job = call(client, "fail", "at all")
    assert end_of(client, job) == ("failed", "exit")

    assert client.why(job)["message"] == "failed: ValueError: of no use: at all"
    logs = shared.cli("logs", str(job)).stderr
    assert "wrote nothing: its handler failed: ValueError: of no use: at all\nTraceback" in logs
    assert "in_process.py" not in logs


def test_handler_when_it_is_gone_after_a_restart_then_its_job_names_it(daemon: DaemonProcess, tmp_path: Path) -> None:
    with daemon.client() as client:
        client.call("queue.pause", {"name": "default"})
        job = call(client, "note", str(tmp_path / "ledger"))
    assert daemon.stop() == 0
    daemon.config.write_text("")
    daemon.start()

    with daemon.client() as client:
        client.call("queue.resume", {"name": "default"})
        assert end_of(client, job) == ("failed", "exit")
        message = client.why(job)["message"]

    assert message == ("failed: there is no in-process handler 'note' any more; [daemon] handlers must name its module")


def test_handler_when_its_error_is_not_unicode_then_it_is_stored_escaped(client: stoker.Client) -> None:
    job = call(client, "mojibake")

    assert end_of(client, job) == ("failed", "exit")

    (attempt,) = attempts_of(client, job)
    assert "ValueError: \\ud800 and \\udcff" in attempt["error"]


def test_handler_when_it_raises_transient_then_it_is_tried_again(client: stoker.Client, tmp_path: Path) -> None:
    job = call(client, "flaky", str(tmp_path / "ledger"), max_attempts=5, base_delay_ms=1)

    assert end_of(client, job) == ("succeeded", "exit")

    assert job_view(client, job)["attempts"] == 3


def test_handler_when_it_swallows_its_cancellation_then_it_is_cancelled_again(
    client: stoker.Client, shared: DaemonProcess, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    job = call(client, "stubborn", str(ledger), grace_ms=50)
    until(lambda: lines(ledger), why="the start of the handler")

    client.cancel(job)

    assert end_of(client, job) == ("cancelled", "user")
    assert len(lines(ledger)) == 3
    assert shared.logged("worker_unresponsive", run_id=attempts_of(client, job)[0]["run_id"])


def test_handler_when_the_job_is_cancelled_then_its_task_is(client: stoker.Client, tmp_path: Path) -> None:
    job = call(client, "stay", str(tmp_path / "ledger"))
    until(lambda: lines(tmp_path / "ledger"), why="the handler")

    client.cancel(job)

    assert end_of(client, job) == ("cancelled", "user")


def test_handler_when_it_runs_too_long_then_it_is_stopped(client: stoker.Client, tmp_path: Path) -> None:
    job = call(client, "stay", str(tmp_path / "ledger"), timeout_ms=100)

    assert end_of(client, job) == ("failed", "timeout")


def test_handler_when_what_it_awaits_was_cancelled_then_it_failed(client: stoker.Client) -> None:
    job = call(client, "await-cancelled")

    assert end_of(client, job) == ("failed", "exit")

    (attempt,) = attempts_of(client, job)
    assert "CancelledError: by another part of the program" in attempt["error"]


def test_handler_when_it_calls_exit_then_only_its_job_fails(shared: DaemonProcess, client: stoker.Client) -> None:
    job = call(client, "leave")

    assert end_of(client, job) == ("failed", "exit")

    (attempt,) = attempts_of(client, job)
    assert "SystemExit: 3" in attempt["error"]
    assert shared.process is not None
    assert shared.process.poll() is None


def test_handler_when_its_name_is_unknown_then_the_error_lists_the_known_names(client: stoker.Client) -> None:
    with pytest.raises(HandlerNotFound, match="flaky") as refused:
        call(client, "nope")

    assert refused.value.details["path"] == "command"


@pytest.mark.parametrize("name", ["stoker.expand", "stoker.collect"])
def test_handler_when_a_job_names_one_of_stoker_then_it_is_refused(client: stoker.Client, name: str) -> None:
    with pytest.raises(HandlerNotFound, match="no in-process handler"):
        call(client, name)


def test_handler_when_its_name_begins_as_those_of_stoker_then_it_is_refused() -> None:
    async def expand(_call: Call) -> None: ...

    with pytest.raises(ValueError, match="are Stoker's own"):
        handler("stoker.expand")(expand)


def test_handler_when_a_step_names_an_unknown_one_then_the_flow_is_refused(
    client: stoker.Client,
) -> None:
    with pytest.raises(
        FlowInvalid, match=r"steps.a.command: no in-process handler is called 'nope' \(there are: .*flaky"
    ):
        client.submit_workflow({"name": "x", "steps": {"a": {"command": "nope", "execution_mode": "in_process"}}})


def test_handler_when_the_daemon_is_killed_then_the_job_is_requeued(daemon: DaemonProcess, tmp_path: Path) -> None:
    with daemon.client() as client:
        job = call(client, "stay-once", str(tmp_path / "ledger"))
        until(lambda: lines(tmp_path / "ledger"), why="the handler")
    daemon.kill_and_start()

    with daemon.client() as client:
        assert end_of(client, job) == ("succeeded", "exit")
        assert job_view(client, job)["failures"] == 0
    assert len(lines(tmp_path / "ledger")) == 2


def test_handler_when_the_daemon_stops_then_the_job_goes_on_after_the_next_start(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    with daemon.client() as client:
        job = call(client, "stay-once", str(tmp_path / "ledger"))
        until(lambda: lines(tmp_path / "ledger"), why="the handler")
        client.call("system.drain", {"stop": True})
        client.call("system.drain", {"stop": True})  # asked twice, it does not wait for jobs to end by themselves
    assert daemon.wait() == 0

    daemon.start()

    with daemon.client() as client:
        assert end_of(client, job) == ("succeeded", "exit")
        view = job_view(client, job)
        assert (view["failures"], view["orphanings"]) == (0, 0)
        assert [change["to"] for change in changes(client, job, "ended")] == ["queued", "succeeded"]
        assert state(client, job) == "succeeded"


def test_handlers_when_modules_cannot_be_imported_then_the_start_fails_with_each(
    stopped_daemon: DaemonProcess,
) -> None:
    stopped_daemon.add_module("broken", "import nothing_of_that_name\n")
    stopped_daemon.config.write_text('[daemon]\nhandlers = ["broken", "missing_module"]\n')

    stopped_daemon.spawn()

    assert stopped_daemon.wait() == 78
    log = stopped_daemon.stderr.read_text()
    assert "daemon.handlers: broken: ModuleNotFoundError" in log
    assert "daemon.handlers: missing_module: ModuleNotFoundError" in log


def test_handler_when_its_job_got_events_then_each_attempt_is_given_them(client: stoker.Client, tmp_path: Path) -> None:
    out = tmp_path / "events"
    wait_for: Any = {"all": ["event:build", {"any": ["event:sign", "event:never"]}]}
    job = client.submit(
        "events", str(out), execution_mode="in_process", wait_for=wait_for, max_attempts=2, base_delay_ms=1
    )["id"]

    client.call("event.emit", {"name": "build", "data": {"n": [1, "ü"]}})
    client.call("event.emit", {"name": "sign"})

    assert end_of(client, job) == ("succeeded", "exit")
    keys = "['data', 'emitted_at', 'id', 'owner_uid']"
    assert out.read_text().splitlines() == [f"build {{'n': [1, 'ü']}} {keys}", f"sign None {keys}"] * 2
