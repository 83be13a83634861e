"""`stoker mcp` as an agent's program meets it: the SDK's own client, a server process, a real daemon."""

from __future__ import annotations

import json
import subprocess
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from mcp import Client, StdioServerParameters, stdio_client
from mcp.types import TextContent

from stoker.cli.agent_tools import CHANGING, MAX_ANSWER_BYTES, MAX_LOG_BYTES, READING, bounded, bounded_page
from stoker.cli.kit.render import visible
from tests.support.daemon import BIN
from tests.support.flows import flow_end, sent_flow
from tests.support.work import Gate, end_of, shell, submit, submit_running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.daemon import DaemonProcess


@asynccontextmanager
async def agent(daemon: DaemonProcess, *options: str) -> AsyncIterator[Client]:
    """A client of a server process that speaks to the daemon."""
    started = StdioServerParameters(
        command=str(BIN / "stoker"), args=["--socket", str(daemon.socket), "mcp", *options], env=daemon.client_environ
    )
    async with Client(stdio_client(started)) as client:
        yield client


async def call(client: Client, tool: str, **arguments: Any) -> Any:
    """The answer of a tool; its text if it is an error."""
    result = await client.call_tool(tool, arguments)
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text if result.is_error else json.loads(content.text)


async def test_tools_when_writing_is_not_allowed_then_none_changes_anything(shared: DaemonProcess) -> None:
    async with agent(shared) as client:
        tools = (await client.list_tools()).tools

        assert {tool.name for tool in tools} == set(READING)
        assert all(tool.annotations and tool.annotations.read_only_hint for tool in tools)
        assert "Unknown tool" in await call(client, "submit", command="true")


async def test_job_when_an_agent_submits_it_then_it_sees_its_end_and_its_log(shared: DaemonProcess) -> None:
    async with agent(shared, "--allow-write") as client:
        assert {tool.name for tool in (await client.list_tools()).tools} == {*READING, *CHANGING}
        job = (await call(client, "submit", command="sh", args=["-c", "echo hello; exit 3"], name="greet"))["id"]

        waited = await call(client, "wait", jobs=[job])
        assert waited["jobs"] == [{"id": job, "state": "failed", "reason": "exit", "exit_code": 3, "signal": None}]
        assert waited["timed_out"] is False
        assert await call(client, "tail_log", job=job) == {"text": "hello\n"}
        assert "exited with 3" in (await call(client, "why", job=job))["message"]
        assert (await call(client, "list_jobs", name="greet"))["jobs"][0]["command"].endswith(
            "sh -c echo hello; exit 3"
        )
        assert [change["to"] for change in (await call(client, "history", job=job))["changes"]][-1] == "failed"
        assert (await call(client, "retry", job=job))["state"] in ("queued", "running")


async def test_wait_when_the_job_goes_on_then_it_ends_in_time(shared: DaemonProcess, gate: Gate) -> None:
    with shared.client() as client:
        job = submit_running(client, gate.spec())
    async with agent(shared, "--allow-write") as client:
        waited = await call(client, "wait", jobs=[job], timeout_s=1)

        assert (waited["timed_out"], waited["jobs"][0]["state"]) == (True, "running")
        assert (await call(client, "cancel", job=job, reason="enough"))["id"] == job
        assert (await call(client, "wait", jobs=[job]))["jobs"][0]["state"] == "cancelled"


async def test_workflow_when_an_agent_submits_it_then_it_sees_each_step(shared: DaemonProcess) -> None:
    flow = {"name": "two", "steps": {"a": {"command": "true"}, "b": {"command": "false", "needs": ["a"]}}}
    async with agent(shared, "--allow-write") as client:
        planned = await call(client, "submit_workflow", flow=flow, dry_run=True)
        assert planned["id"] is None
        workflow = (await call(client, "submit_workflow", flow=flow))["id"]
        with shared.client() as own:
            flow_end(own, workflow)

        steps = {
            step["name"]: step["state"] for step in (await call(client, "show_workflow", workflow=workflow))["steps"]
        }
        assert steps == {"a": "succeeded", "b": "failed"}
        assert workflow in [each["id"] for each in (await call(client, "list_workflows"))["workflows"]]


async def test_workflow_when_it_has_many_steps_then_groups_are_counted(
    shared: DaemonProcess,
) -> None:
    items = [f"i{number}" for number in range(60)]
    work = {**shell('[ "$STOKER_ITEM" != i7 ]'), "each": items}
    async with agent(shared) as client:
        with shared.client() as own:
            workflow = sent_flow(own, {"work": work})
            flow_end(own, workflow)

        shown = await call(client, "show_workflow", workflow=workflow)
        some = await call(client, "show_workflow", workflow=workflow, step="work[i9]")
        job = await call(client, "show_job", job=f"{workflow}/work[i7]")
        unknown = await call(client, "why", job=f"{workflow}/wirk")

        assert shown["groups"] == [{"name": "work", "steps": "59/60 done, 1 failed"}]
        assert [step["name"] for step in shown["steps"]] == ["work[i7]"]
        assert [step["name"] for step in some["steps"]] == ["work[i9]"]
        assert (job["state"], job["step"]) == ("failed", "work[i7]")
        assert "did you mean work?" in unknown


async def test_log_when_it_is_long_then_it_is_read_in_pieces(shared: DaemonProcess) -> None:
    with shared.client() as own:
        job = submit(own, shell("seq 1 20000"))
        end_of(own, job)
    whole = "".join(f"{number}\n" for number in range(1, 20_001))
    async with agent(shared) as client:
        text = ""
        piece: dict[str, Any] = {"next": 0}
        while piece["next"] is not None:
            piece = await call(client, "read_log", job=job, offset=piece["next"])
            assert len(piece["text"]) <= MAX_LOG_BYTES
            text += piece["text"]
        assert text == whole
        assert (await call(client, "tail_log", job=job, lines=2))["text"] == "19999\n20000\n"
        assert (await call(client, "tail_log", job=job, lines=10_000))["text"] == whole[-MAX_LOG_BYTES:]


async def test_log_when_it_has_control_characters_then_they_are_spelled_out(shared: DaemonProcess) -> None:
    with shared.client() as own:
        job = submit(own, shell(r"printf '\033]0;title\007\202x\n'"))
        end_of(own, job)
    async with agent(shared) as client:
        assert "\x1b" not in (await call(client, "tail_log", job=job))["text"]


@pytest.mark.parametrize("code", [r"\0", r"\377", r"\342\202\254", r"\342\200\256"])
async def test_log_when_its_text_is_longer_as_json_then_the_answer_is_bounded(shared: DaemonProcess, code: str) -> None:
    with shared.client() as own:
        job = submit(own, shell(f"printf 'ab{code}%.0s' $(seq 20000)"))
        end_of(own, job)
        written = b"".join(own.logs(job)).decode(errors="replace")
    async with agent(shared) as client:
        tail, text = await call(client, "tail_log", job=job), ""
        piece: dict[str, Any] = {"next": 0}
        while piece["next"] is not None:
            piece = await call(client, "read_log", job=job, offset=piece["next"])
            assert len(json.dumps(piece)) <= MAX_ANSWER_BYTES
            text += piece["text"]

        assert text == visible(written, keep="\n\t")
        assert len(json.dumps(tail)) <= MAX_ANSWER_BYTES
        assert text.endswith(tail["text"])
        assert tail["cut"]


async def test_log_when_its_middle_was_dropped_then_no_text_goes_over_it(shared: DaemonProcess) -> None:
    with shared.client() as own:
        job = submit(own, shell("seq 1 50000", max_log_bytes=20_000))
        end_of(own, job)
    whole = "".join(f"{number}\n" for number in range(1, 50_001))
    pieces: list[dict[str, Any]] = [{"next": 0}]
    async with agent(shared) as client:
        while pieces[-1]["next"] is not None:
            pieces.append(await call(client, "read_log", job=job, offset=pieces[-1]["next"]))
        tail = await call(client, "tail_log", job=job, lines=10_000)

    texts = [piece["text"] for piece in pieces[1:]]
    missing = sum(piece.get("missing", 0) for piece in pieces)
    assert all(text in whole for text in texts)
    assert missing + sum(map(len, texts)) == len(whole)
    assert tail["missing"] == missing > 0


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("why", {"job": 999_999}, "there is no job 999999"),
    ("why", {"job": "x"}, "'x' is not a job id"),
    ("why", {"job": []}, "validation error"),
    ("list_jobs", {"states": ["asleep"]}, "one of:"),
    ("submit", {"command": "no-such-program"}, "next:"),
    ("submit", {"command": "true", "options": {"prioritty": 1}}, "did you mean priority?"),
    ("submit", {"command": "true", "options": {"self": 1}}, "self: no such field"),
    ("submit_workflow", {"flow": {"name": "x", "steps": {}}}, "steps"),
]


async def test_tool_when_its_arguments_are_wrong_then_the_error_says_what_to_do(shared: DaemonProcess) -> None:
    async with agent(shared, "--allow-write") as client:
        for tool, arguments, expected in WRONG:
            assert expected in await call(client, tool, **arguments)


async def test_tool_when_no_daemon_runs_then_it_says_how_to_start_one(stopped_daemon: DaemonProcess) -> None:
    async with agent(stopped_daemon) as client:
        assert "systemctl start stoker" in await call(client, "status")


def test_answer_when_it_is_too_large_then_it_is_cut_with_a_mark() -> None:
    small = {"a": "x" * 5_000}
    assert bounded(small) == small
    for large in ({"a": "x" * 1_000_000}, {"a": ["x" * 100] * 10_000}, {"a": [{"b": ["x" * 50] * 300}] * 300}):
        answer = bounded(large)
        assert len(json.dumps(answer)) <= MAX_ANSWER_BYTES
        assert answer["cut"]


def test_page_when_it_is_cut_then_the_next_one_begins_behind_its_last_row() -> None:
    page: dict[str, Any] = {"changes": [{"seq": seq, "text": "x" * 900} for seq in range(1, 101)], "next": None}

    cut = bounded_page(page, "changes", "seq")
    assert cut["changes"][-1]["seq"] == cut["next"] == len(cut["changes"]) < 100
    assert bounded_page({"changes": page["changes"][:9], "next": 9}, "changes", "seq")["next"] == 9


def test_mcp_when_stdin_ends_while_a_tool_waits_then_the_server_ends(shared: DaemonProcess, gate: Gate) -> None:
    with shared.client() as own:
        job = submit_running(own, gate.spec())
    about = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    waiting = {"name": "wait", "arguments": {"jobs": [job], "timeout_s": 300}}
    with subprocess.Popen(
        [str(BIN / "stoker"), "--socket", str(shared.socket), "mcp"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        assert server.stdin
        assert server.stdout
        for message in (
            {"id": 1, "method": "initialize", "params": about},
            {"method": "notifications/initialized"},
            {"id": 2, "method": "tools/call", "params": waiting},
            {"id": 3, "method": "tools/call", "params": {"name": "status", "arguments": {}}},
        ):
            server.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        server.stdin.flush()
        assert [json.loads(server.stdout.readline())["id"] for _ in range(2)] == [1, 3]
        server.stdin.close()
        try:
            assert server.wait(timeout=60) == 0
        finally:
            server.kill()


def test_mcp_when_stdin_ends_then_the_server_ends(shared: DaemonProcess) -> None:
    done = subprocess.run(
        [BIN / "stoker", "--socket", shared.socket, "mcp"], input=b"", capture_output=True, timeout=60, check=False
    )

    assert (done.returncode, done.stdout) == (0, b"")
