"""Lists of a thousand queues, asked for a thousand times at once: a bounded answer, and others are served."""

from __future__ import annotations

import json
import select

import pytest

from tests.support.daemon import DaemonProcess
from tests.support.rpc import RawClient, request

QUEUES = 1_000
SETTINGS = "".join(f"[queues.queue-{number}]\nmax_running = 1\n" for number in range(QUEUES))
REQUESTS = 1_000
LATE = 3_000
SERVED = 20  # others, while the first few lists are made
MOST_ANSWER_BYTES = 5 << 20


@pytest.mark.parametrize("method", ["queue.list", "system.status"])
def test_list_when_a_batch_asks_a_thousand_times_then_its_answer_is_bounded(shared: DaemonProcess, method: str) -> None:
    with RawClient(shared.socket) as client:
        client.say(b"[" + b",".join(request(method, n).strip() for n in range(REQUESTS)) + b"]\n")
        answers = {answer["id"]: answer for answer in client.hear()}

    assert len(json.dumps(answers)) < MOST_ANSWER_BYTES
    assert "result" in answers[0]
    assert answers[REQUESTS - 1]["error"]["data"]["code"] == "answer_too_large"


@pytest.mark.parametrize("method", ["system.settings", "system.reload"])
def test_settings_when_they_are_long_then_reading_them_does_not_keep_others(daemon: DaemonProcess, method: str) -> None:
    """The file has a table for each of thousands of queues since the daemon runs."""
    daemon.config.write_text("".join(f"[queues.late-{number}]\nmax_running = 1\n" for number in range(LATE)))
    with daemon.client() as client:
        client.call(method)

    assert daemon.slow_lines() == []


def test_others_when_a_client_reloads_a_thousand_times_then_they_are_served(shared: DaemonProcess) -> None:
    with RawClient(shared.socket) as client, RawClient(shared.socket) as other:
        client.say(b"".join(request("system.reload", n) for n in range(REQUESTS)))
        for _ in range(SERVED):
            other.ask("job.none")
        answered = bool(select.select([client.socket], [], [], 0)[0])
        answers = client.socket.recv(1 << 24).count(b'"jsonrpc"') if answered else 0

    assert answers < REQUESTS // 4
