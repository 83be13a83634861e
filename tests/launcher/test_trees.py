"""Process trees: which processes belong to a run, how a signal reaches all of them, and which are leaked."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stoker.process.messages import Exited, Leaked, RunState
from tests.support import strace
from tests.support.facts import until_async
from tests.support.instance import children_of, end_of, ended, log_of, pid_of
from tests.support.strace import Attached, calls_of

if TYPE_CHECKING:
    from stoker.process.client import LauncherClient
    from stoker.process.messages import LaunchOrder
    from tests.support.instance import LauncherHost

# Prints its own pid, then stays; `$0` is a FIFO without a writer.
DEAF = "sh -c 'trap \"\" TERM HUP INT; echo deaf $$; read _ < $0' $0"
FAR = "setsid sh -c 'echo far $$; read _ < $0' $0"
# In another session, without its parent, and with neither run id nor mark.
NAMELESS = "prlimit --rttime=unlimited setsid env -i sh -c 'echo nameless $$; read _ < $0' $0"


async def test_signal_when_the_main_process_lives_then_it_is_delivered_and_it_is_stopped(
    host: LauncherHost,
) -> None:
    client = await host.start()
    order = host.staying()
    await host.running(client, order)

    delivered = await client.signal(order.run_id, signal.SIGTERM)

    exited = await host.heard(Exited, order)
    assert delivered
    assert (exited.signal, exited.exit_code, exited.stopped, exited.left) == (15, None, True, 0)


async def test_signal_when_the_run_is_over_then_it_is_not_delivered_and_the_exit_stands(host: LauncherHost) -> None:
    client = await host.start()
    order = host.order("/bin/true")
    await host.run(client, order)

    assert not await client.signal(order.run_id, signal.SIGTERM)

    (run,) = await client.list_runs([order.run_id])
    assert run.exit is not None
    assert not run.exit.stopped


async def test_signal_when_it_follows_a_short_jobs_order_then_answer_and_exit_agree(
    host: LauncherHost,
) -> None:
    client = await host.start()
    orders = [host.order("/bin/true") for _ in range(60)]

    client.launch(orders)
    answers = [client.signal(order.run_id, signal.SIGKILL) for order in orders]

    for order, answer in zip(orders, answers, strict=True):
        assert await answer == (await host.heard(Exited, order)).stopped


async def test_signal_when_the_run_is_unknown_then_it_is_not_delivered(host: LauncherHost) -> None:
    client = await host.start()

    assert not await client.signal("1.1.00", signal.SIGTERM)


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGRTMIN + 5, 63])
async def test_signal_when_it_is_a_warning_then_only_the_main_process_gets_it_and_goes_on(
    host: LauncherHost, signum: int
) -> None:
    client = await host.start()
    script = (
        "import os, signal, sys\n"
        f"signal.pthread_sigmask(signal.SIG_BLOCK, [{int(signum)}])\n"
        "child = os.fork()\n"
        "if child == 0:\n    open(sys.argv[1]).read()\n"
        "print('up', flush=True)\n"
        f"signal.sigwait([{int(signum)}])\n"
        "print('child lives', os.waitpid(child, os.WNOHANG) == (0, 0), flush=True)\n"
        "os.kill(child, 9)\n"
    )
    order = host.python(script)
    await host.running(client, order, "up")

    delivered = await client.signal(order.run_id, signum, "main")

    exited = await host.heard(Exited, order)
    assert delivered
    assert (exited.exit_code, exited.stopped) == (0, False)
    assert "child lives True" in log_of(order)


async def test_tree_when_it_ignores_sigterm_then_only_sigkill_ends_it(host: LauncherHost) -> None:
    client = await host.start()
    order = host.shell(f"trap '' TERM; {DEAF} & echo up; read _ < $0")
    await host.running(client, order, "up", "deaf")

    await client.signal(order.run_id, signal.SIGTERM)
    after_term = await host.state(client, order)
    await client.signal(order.run_id, signal.SIGKILL)

    exited = await host.heard(Exited, order)
    assert after_term is RunState.RUNNING
    assert (exited.signal, exited.stopped) == (9, True)
    await until_async(lambda: ended(pid_of(order, "deaf")))


async def test_tree_when_it_stopped_itself_then_sigterm_still_reaches_it(host: LauncherHost) -> None:
    client = await host.start()
    order = host.shell("trap 'echo heard; exit 5' TERM; echo up; kill -STOP $$")
    started = await host.running(client, order, "up")
    await until_async(lambda: " T " in Path(f"/proc/{started.pid}/stat").read_text())

    await client.signal(order.run_id, signal.SIGTERM)

    exited = await host.heard(Exited, order)
    assert (exited.exit_code, exited.stopped) == (5, True)


async def test_tree_when_a_child_left_the_session_then_the_signal_reaches_it(host: LauncherHost) -> None:
    client = await host.start()
    order = host.shell(f"{FAR} & read _ < $0")
    await host.running(client, order, "far")

    await client.signal(order.run_id, signal.SIGTERM)

    await host.heard(Exited, order)
    await until_async(lambda: ended(pid_of(order, "far")))
    assert host.workers() == []


@pytest.mark.parametrize("daemon", [FAR, NAMELESS], ids=["with its nonce", "with nothing"])
async def test_tree_when_it_daemonised_twice_then_it_is_left_until_it_is_signalled(
    host: LauncherHost, daemon: str
) -> None:
    client = await host.start()
    order = host.shell(f"( {daemon} & ) ; exit 3")
    name = "far" if daemon is FAR else "nameless"

    exited = await host.run(client, order)
    await until_async(lambda: name in log_of(order))
    has_ended = end_of(pid_of(order, name))
    closing = await host.state(client, order)
    delivered = await client.signal(order.run_id, signal.SIGTERM)

    await host.gone(order)
    assert (exited.exit_code, exited.left, exited.stopped) == (3, 1, False)
    assert closing is RunState.CLOSING
    assert delivered
    assert has_ended()
    assert await host.state(client, order) is RunState.ENDED
    assert client.leaked == 0


async def test_exit_when_something_is_left_then_it_is_not_reported_as_a_stop_afterwards(host: LauncherHost) -> None:
    client = await host.start()
    order = host.shell(f"{FAR} & exit 0")
    await host.run(client, order)

    await client.signal(order.run_id, signal.SIGKILL)
    await host.gone(order)

    (run,) = await client.list_runs()
    assert run.exit is not None
    assert (run.exit.exit_code, run.exit.stopped, run.exit.left) == (0, False, 0)


async def two_runs_and_a_nameless_child(host: LauncherHost, client: LauncherClient) -> tuple[LaunchOrder, LaunchOrder]:
    """A run that goes on, one that is over, and a child that may be of either."""
    other, parent = host.staying(), host.shell(f"( {NAMELESS} & ) ; read _ < $0")
    await host.running(client, other)
    await host.running(client, parent, "nameless")
    # It may have printed its pid before its parent has ended.
    await until_async(lambda: pid_of(parent, "nameless") in children_of(client.facts.pid), why="its adoption")
    return other, parent


async def test_leaked_when_two_runs_may_own_it_then_it_is_counted_and_left_alone(host: LauncherHost) -> None:
    client = await host.start()
    other, parent = await two_runs_and_a_nameless_child(host, client)

    await client.list_runs()

    assert client.leaked == 1
    assert [(report.count, report.stopped) for _, report in host.reports if isinstance(report, Leaked)] == [(1, 0)]
    assert host.count(Exited) == 0
    await client.signal(parent.run_id, signal.SIGKILL)
    await host.heard(Exited, parent)
    await client.list_runs()
    assert client.leaked == 1
    assert not ended(pid_of(parent, "nameless"))
    assert await host.state(client, other) is RunState.RUNNING


async def test_leaked_when_no_open_run_can_own_it_then_it_is_stopped(host: LauncherHost) -> None:
    client = await host.start()
    other, parent = await two_runs_and_a_nameless_child(host, client)
    await client.list_runs()  # from here on its owner is known, so no later run can be
    later = host.staying()
    await host.running(client, later)
    nameless_has_ended = end_of(pid_of(parent, "nameless"))

    for order in (other, parent):
        await client.signal(order.run_id, signal.SIGKILL)

    await until_async(lambda: client.leaked == 0, why="the word that it was stopped, without being asked")
    assert nameless_has_ended()
    assert [(report.count, report.stopped) for _, report in host.reports if isinstance(report, Leaked)] == [
        (1, 0),
        (0, 1),
    ]
    assert await host.state(client, later) is RunState.RUNNING


async def test_leaked_when_a_process_is_leaked_then_hello_counts_it(host: LauncherHost) -> None:
    client = await host.start(epoch=1)
    await two_runs_and_a_nameless_child(host, client)
    await client.list_runs()

    again = await host.reconnect(client.launcher, epoch=2)

    assert again.facts.leaked == 1


async def test_tree_when_another_run_shares_its_launcher_then_only_its_own_is_stopped(host: LauncherHost) -> None:
    client = await host.start()
    mine, other = host.shell(f"( {FAR} & ) ; read _ < $0"), host.shell(f"( {FAR} & ) ; read _ < $0")
    await host.running(client, mine, "far")
    await host.running(client, other, "far")

    await client.signal(mine.run_id, signal.SIGKILL)

    await host.heard(Exited, mine)
    await until_async(lambda: ended(pid_of(mine, "far")))
    assert not ended(pid_of(other, "far"))
    assert await host.state(client, other) is RunState.RUNNING


BOMB = """
import os, sys
for depth in range(6):  # 64 processes, some in sessions of their own
    if os.fork() == 0 and depth % 2:
        os.setsid()
print('.', end='', flush=True)
open(sys.argv[1]).read()
"""


async def test_tree_when_it_is_a_fork_bomb_then_one_sigkill_takes_all_of_it(host: LauncherHost) -> None:
    client = await host.start()
    order = host.python(BOMB)
    await host.running(client, order)
    await until_async(lambda: len(log_of(order)) == 64, why="64 processes")

    await client.signal(order.run_id, signal.SIGKILL)

    exited = await host.heard(Exited, order)
    if exited.left:
        await host.gone(order)
    assert host.workers() == []
    assert children_of(client.facts.pid) == []
    assert client.leaked == 0


async def test_tree_when_it_forks_without_end_then_repeated_sigkill_outruns_it(host: LauncherHost) -> None:
    client = await host.start()
    spawning = (
        "import os\nprint('up', flush=True)\n"
        "while os.getcwd():\n    if os.fork():\n        os._exit(0)\n    os.setsid()\n"  # ends with the test
    )
    order = host.python(spawning)
    await host.running(client, order, "up")

    while await host.state(client, order) is not RunState.ENDED:
        await client.signal(order.run_id, signal.SIGKILL)

    assert host.workers() == []


async def test_launcher_when_workers_signal_their_parent_then_it_goes_on(host: LauncherHost) -> None:
    client = await host.start()
    order = host.shell("for s in HUP INT TERM QUIT PIPE USR1 USR2 ALRM TSTP TTIN TTOU IO; do kill -$s $PPID; done")

    exited = await host.run(client, order)

    assert exited.exit_code == 0
    assert os.getsid(client.facts.pid) == client.facts.pid
    assert await client.list_runs()


@pytest.mark.skipif(strace.why_not() is not None, reason=str(strace.why_not()))
async def test_end_when_the_children_cannot_be_listed_then_it_is_reported_later(host: LauncherHost) -> None:
    client = await host.start()
    order, trace = host.shell("(setsid sh -c 'echo child $$; read _ < $0' $0 &); exit 3"), host.home / "trace"
    attached = Attached(client.facts.pid, trace, "trace=pread64", "inject=pread64:error=ENOMEM:when=1..2")

    exited = await host.run(client, order)

    attached.detach()
    assert [call.injected for call in calls_of(trace)].count(True) == 2
    assert (exited.exit_code, exited.left) == (3, 1)
    assert await host.state(client, order) == RunState.CLOSING
    assert not ended(client.facts.pid)
