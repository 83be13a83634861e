"""The exit code by which a worker asks to be run again, and its limits."""

from __future__ import annotations

import itertools
import sys
from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.errors import InvalidParams
from tests.support.daemon import DaemonProcess
from tests.support.facts import scales, until
from tests.support.flows import flow, flow_end, send
from tests.support.work import attempts_of, changes, end_of, job_view, lines, shell, submit

if TYPE_CHECKING:
    from pathlib import Path

    import stoker

# --- saved, run me again ------------------------------------------------------------------------------------


COUNTING = """
import base64, os, sys, stoker
to, said = int(sys.argv[1]), sys.argv[2]
found = os.environ["STOKER_CHECKPOINT"]
n = int(open(found).read()) if os.path.exists(found) else 0
print(n, file=open(said, "a"))
if n == to:
    sys.exit(0)
data = base64.b64encode(str(n + 1).encode()).decode()
stoker.Client(os.environ["STOKER_SOCKET"]).call("checkpoint.save", {"token": os.environ["STOKER_TOKEN"], "data": data})
sys.exit(75)
"""


def counting(to: int, ledger: Path) -> dict[str, Any]:
    """A worker that reads a number from its checkpoint, saves the next one and asks to be run again."""
    return {"command": sys.executable, "args": ["-c", COUNTING, str(to), str(ledger)]}


def test_checkpoint_exit_when_a_loop_saves_then_it_runs_again_to_its_end_uncharged(
    client: stoker.Client, tmp_path: Path
) -> None:
    ledger = tmp_path / "said"

    job = submit(client, counting(4, ledger), checkpoint_exit_code=75, base_delay_ms=1)

    assert end_of(client, job) == ("succeeded", "exit")
    view = job_view(client, job)
    assert (view["attempts"], view["failures"], view["orphanings"]) == (5, 0, 0)
    assert lines(ledger) == ["0", "1", "2", "3", "4"]


def test_checkpoint_exit_when_runs_are_short_then_the_base_delay_lies_between_them(
    client: stoker.Client, tmp_path: Path
) -> None:
    for delay_ms in scales(400):
        said = tmp_path / str(delay_ms)
        job = submit(client, counting(2, said), checkpoint_exit_code=75, base_delay_ms=delay_ms)
        end = end_of(client, job)
        if changes(client, job, "woke"):
            break  # else each run took longer than the delay

    assert end[0] == "succeeded"
    starts = [attempt["started_at"] for attempt in attempts_of(client, job)]
    # A start is computed from CLOCK_BOOTTIME, the end of the wait from steady time; each is rounded.
    assert all(later - earlier >= delay_ms - 5 for earlier, later in itertools.pairwise(starts))


@pytest.mark.parametrize("code", [3, 143])
def test_checkpoint_exit_when_the_daemon_drains_then_the_next_one_runs_the_job_again(tmp_path: Path, code: int) -> None:
    """The exit code 143 means nothing here: the job is unsafe, and its end is unseen."""
    ledger = tmp_path / "said"
    script = (
        f'trap "exit {code}" TERM; echo $STOKER_ATTEMPT >> {ledger}; [ $STOKER_ATTEMPT = 2 ] && exit 0; '
        f"while :; do sleep 0.05; done"
    )
    with DaemonProcess("[daemon]\ndrain_timeout_ms = 50\n") as daemon:
        with daemon.client() as client:
            job = submit(client, shell(script), checkpoint_exit_code=3, base_delay_ms=1)
            until(lambda: lines(ledger), why="the first run")

        daemon.restart()

        with daemon.client() as client:
            assert end_of(client, job) == (("succeeded", "exit") if code == 3 else ("failed", "shutdown"))
            view = job_view(client, job)
    assert (view["failures"], view["orphanings"]) == (0, 0)


def test_checkpoint_exit_when_a_step_uses_it_then_the_next_step_runs_once_after_all(
    client: stoker.Client, tmp_path: Path
) -> None:
    ledger = tmp_path / "said"
    loop = shell(f"echo loop >> {ledger}; [ $STOKER_ATTEMPT = 3 ] || exit 75", checkpoint_exit_code=75, base_delay_ms=1)
    after = {**shell(f"echo after >> {ledger}"), "needs": ["loop"]}

    answer = send(client, flow({"loop": loop, "after": after}))

    assert flow_end(client, answer["id"]) == "succeeded"
    assert lines(ledger) == ["loop", "loop", "loop", "after"]


# --- what cannot be asked -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "path"),
    [
        ({"checkpoint_exit_code": 0}, "checkpoint_exit_code"),
        ({"checkpoint_exit_code": 75, "no_retry_exit_codes": [75]}, "checkpoint_exit_code"),
        ({"checkpoint_exit_code": 256}, "checkpoint_exit_code"),
        ({"heartbeat_ms": 30_000}, "heartbeat_ms"),
        ({"heartbeat_ms": 1_000, "unresponsive_kill_ms": 1_000}, "heartbeat_ms"),
        ({"heartbeat_ms": 0}, "heartbeat_ms"),
        ({"notify": 1}, "notify"),
    ],
)
def test_submit_when_two_reports_could_not_be_distinguished_then_it_is_refused(
    client: stoker.Client, asked: dict[str, Any], path: str
) -> None:
    with pytest.raises(InvalidParams) as refused:
        submit(client, shell("exit 0"), **asked)

    assert refused.value.details["path"] == path
