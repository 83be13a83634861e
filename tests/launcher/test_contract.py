"""The frozen messages of the protocol: hello, list, launch, ack, and the daemons that may send them."""

from __future__ import annotations

import os
import signal
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from stoker.core.errors import AlreadyRunning
from stoker.core.job.model import OutcomeKind
from stoker.process.identity import boot_id, pid_namespace
from stoker.process.messages import Exited, HelloRefusal, RunState, Started
from stoker.process.outcomes import outcome_of
from tests.support import strace
from tests.support.facts import until, until_async
from tests.support.strace import Attached

if TYPE_CHECKING:
    from stoker.process.messages import LaunchOrder
    from tests.support.instance import LauncherHost

BEHIND_A_WAIT_US = 1_000_000


async def test_hello_when_a_daemon_comes_then_the_launcher_introduces_itself(host: LauncherHost) -> None:
    client = await host.start(epoch=7)

    facts = client.facts

    assert (facts.version, facts.launcher, facts.epoch, facts.leaked) == (1, client.launcher, 7, 0)
    assert (facts.boot_id, facts.pid_namespace) == (boot_id(), pid_namespace())
    assert client.launcher.startswith("7-")
    assert f"STOKER_LAUNCHER={client.launcher}".encode() in Path(f"/proc/{facts.pid}/environ").read_bytes()


async def test_hello_when_its_epoch_is_older_then_it_is_refused_and_the_newer_daemon_stays(host: LauncherHost) -> None:
    client = await host.start(epoch=2)

    with pytest.raises(AlreadyRunning):
        await host.reconnect(client.launcher, epoch=1)

    assert await client.list_runs() == []


async def test_hello_when_the_instance_is_another_then_it_is_refused(host: LauncherHost) -> None:
    client = await host.start()
    wire = host.wire(client.launcher)

    answer = wire.hello("0123456789abcdef", epoch=9)

    assert answer == {"op": "refused", "why": "instance"}
    assert wire.hear() == []


@pytest.mark.parametrize("hung_up", [True, False])
async def test_hello_when_an_older_connection_has_unread_orders_then_they_start_nothing(
    host: LauncherHost, *, hung_up: bool
) -> None:
    client = await host.start(epoch=1)
    # Far more than the launcher reads at once: the last order is still in the socket when the new hello comes.
    orders = [host.staying(stdin="x" * 60_000) for _ in range(3)]
    old = host.wire(client.launcher)
    old.hello(host.instance, epoch=2)
    os.kill(client.facts.pid, 19)
    try:
        old.say(*[{"op": "launch", **msgspec.to_builtins(order), "epoch": 2} for order in orders])
        if hung_up:
            old.close()
        new = host.wire(client.launcher)
        new.say(
            {"op": "hello", "version": 1, "epoch": 3, "instance": host.instance},
            {"op": "list", "tag": 5, "run_ids": [order.run_id for order in orders]},
        )
    finally:
        os.kill(client.facts.pid, 18)

    heard = new.hear()
    while heard[-1]["op"] != "list":
        heard += new.hear()

    assert heard[0]["op"] == "hello"
    listed = heard[-1]
    runs = {run["run_id"]: run for run in listed["runs"]}
    unread = orders if hung_up else orders[-1:]  # the first were read before the newer daemon came
    assert {(runs[order.run_id]["state"], runs[order.run_id]["exit"]["declined"]) for order in unread} == {
        ("ended", True)
    }
    assert not any(Path(order.log).exists() for order in unread)
    assert len(runs) == len(orders)


async def test_hello_when_a_newer_daemon_came_then_the_older_connection_is_ended(host: LauncherHost) -> None:
    client = await host.start(epoch=1)

    newer = await host.reconnect(client.launcher, epoch=2)

    await until_async(lambda: client.lost, why="the end of the older connection")
    assert await newer.list_runs() == []


async def test_launch_when_its_epoch_is_older_than_the_hello_then_it_is_refused(host: LauncherHost) -> None:
    client = await host.start(epoch=2)

    refused = await host.refused(client, host.order("/bin/true", epoch=1))

    assert refused.why is HelloRefusal.EPOCH


async def found_declined(host: LauncherHost, launcher: str, order: LaunchOrder) -> None:
    """The next daemon finds that the launcher has never started this order."""
    again = await host.reconnect(launcher, epoch=3)
    runs = {run.run_id: run for run in await again.list_runs([order.run_id])}
    exited = runs[order.run_id].exit
    assert exited is not None
    assert (runs[order.run_id].state, outcome_of(exited).kind) == (RunState.ENDED, OutcomeKind.NEVER_STARTED)
    assert not Path(order.log).exists()


async def test_launch_when_its_daemon_went_while_it_was_unread_then_it_starts_nothing(host: LauncherHost) -> None:
    client = await host.start(epoch=1)
    await host.running(client, host.staying())  # else the launcher leaves with the last daemon
    order = host.staying()
    wire = host.wire(client.launcher)
    wire.hello(host.instance, epoch=2)

    os.kill(client.facts.pid, signal.SIGSTOP)
    wire.say({**msgspec.to_builtins(order), "epoch": 2})
    wire.close()
    os.kill(client.facts.pid, signal.SIGCONT)

    await found_declined(host, client.launcher, order)


@pytest.mark.skipif(strace.why_not() is not None, reason=str(strace.why_not()))
async def test_launch_when_its_daemon_goes_behind_a_wait_then_it_starts_nothing(host: LauncherHost) -> None:
    client = await host.start(epoch=1)
    await host.running(client, host.staying())  # else the launcher leaves with the last daemon
    order = host.staying()
    wire = host.wire(client.launcher)
    wire.hello(host.instance, epoch=2)
    pause = f"inject=epoll_wait:delay_exit={BEHIND_A_WAIT_US}:when=1"
    attached = Attached(client.facts.pid, host.home / "trace", "trace=epoll_wait", pause)

    wire.say({"op": "list", "tag": 1, "run_ids": []})  # the wait reports this, and the launcher is stopped behind it
    until(lambda: strace.is_held(client.facts.pid), why="the end of the wait")
    wire.say({**msgspec.to_builtins(order), "epoch": 2})
    wire.close()

    attached.detach()
    await found_declined(host, client.launcher, order)


@pytest.mark.parametrize("began", [True, False])
async def test_launch_when_its_run_is_settled_then_it_is_refused(host: LauncherHost, *, began: bool) -> None:
    client = await host.start()
    order = host.order("/bin/true")
    if began:
        await host.run(client, order)
    client.acknowledge([order.run_id])

    refused = await host.refused(client, order)

    assert refused.why is HelloRefusal.TOMBSTONE
    assert await client.list_runs() == []


async def test_list_when_a_run_is_unknown_then_it_is_never_started(host: LauncherHost) -> None:
    client = await host.start()
    order = host.order("/bin/true")

    state = await host.state(client, order)
    refused = await host.refused(client, order)

    assert state is RunState.UNKNOWN
    assert refused.why is HelloRefusal.TOMBSTONE
    assert not Path(order.log).exists()


async def test_list_when_runs_are_in_every_state_then_each_is_listed_with_its_facts(host: LauncherHost) -> None:
    client = await host.start()
    staying, over, closing = host.staying(), host.order("/bin/false"), host.shell("sh -c 'read _ < $0' $0 & exit 3")
    started = await host.running(client, staying)
    await host.run(client, over)
    await host.run(client, closing)

    runs = {run.run_id: run for run in await client.list_runs()}

    assert runs[staying.run_id].state is RunState.RUNNING
    assert runs[staying.run_id].started == started
    assert runs[over.run_id].state is RunState.ENDED
    assert runs[over.run_id].exit == host.first_report(Exited, over)
    closed = runs[closing.run_id].exit
    assert runs[closing.run_id].state is RunState.CLOSING
    assert closed is not None
    assert (closed.exit_code, closed.left) == (3, 1)


async def test_launch_when_the_run_is_held_already_then_it_is_a_duplicate(host: LauncherHost) -> None:
    client = await host.start()
    order = host.staying()
    await host.running(client, order)

    refused = await host.refused(client, order)

    assert refused.why is HelloRefusal.DUPLICATE
    assert host.count(Started) == 1


async def test_ack_when_the_run_is_over_then_it_is_forgotten_and_until_then_kept(host: LauncherHost) -> None:
    client = await host.start()
    order = host.order("/bin/true")
    await host.run(client, order)
    before = await client.list_runs()

    client.acknowledge([order.run_id])

    assert [run.run_id for run in before] == [order.run_id]
    assert await client.list_runs() == []


async def test_ack_when_the_run_still_lives_then_nothing_changes(host: LauncherHost) -> None:
    client = await host.start()
    order = host.staying()
    await host.running(client, order)

    client.acknowledge([order.run_id, "9.9.unknown"])

    assert await host.state(client, order) is RunState.RUNNING


BROKEN = {
    "a frame above the limit": struct.pack(">I", 1 << 30),
    "no JSON": struct.pack(">I", 2) + b"{[",
    "no array": struct.pack(">I", 2) + b"{}",
    "no op": struct.pack(">I", 4) + b"[{}]",
    "not UTF-8": struct.pack(">I", 4) + b'["\xff]',
    "too deep": struct.pack(">I", 200_000) + b"[" * 200_000,
    "an unknown op": struct.pack(">I", 16) + b'[{"op":"reboot"}]'[:16],
    "no hello": struct.pack(">I", 31) + b'[{"op":"ack","run_ids":["1.1"]}]'[:31],
}


@pytest.mark.parametrize("what", BROKEN)
async def test_connection_when_something_broken_is_sent_then_only_it_is_dropped(host: LauncherHost, what: str) -> None:
    client = await host.start()
    wire = host.wire(client.launcher)

    wire.send_raw(BROKEN[what])

    assert wire.hear() == []
    assert await client.list_runs() == []


async def test_connection_when_a_greeted_daemon_talks_nonsense_then_its_runs_go_on(host: LauncherHost) -> None:
    client = await host.start(epoch=1)
    order = host.staying()
    await host.running(client, order)
    wire = host.wire(client.launcher)
    wire.hello(host.instance, epoch=2)

    wire.say({"op": "launch", "epoch": 2}, {"op": "signal"})

    assert wire.hear() == []
    again = await host.reconnect(client.launcher, epoch=3)
    assert await host.state(again, order) is RunState.RUNNING


async def test_frame_when_it_is_torn_by_the_end_of_its_sender_then_nothing_of_it_is_obeyed(host: LauncherHost) -> None:
    client = await host.start(epoch=1)
    await host.running(client, host.staying())  # else the launcher leaves with the last daemon
    order = host.staying()
    wire = host.wire(client.launcher)
    wire.hello(host.instance, epoch=2)
    body = msgspec.json.encode([{**msgspec.to_builtins(order), "epoch": 2}])

    wire.send_raw(struct.pack(">I", len(body)) + body[:-1])
    wire.close()

    again = await host.reconnect(client.launcher, epoch=3)
    assert await host.state(again, order) is RunState.UNKNOWN


async def test_socket_when_the_launcher_listens_then_only_its_user_may_open_it(host: LauncherHost) -> None:
    client = await host.start()

    mode = (host.state_dir / "launchers" / f"{client.launcher}.sock").stat().st_mode

    assert mode & 0o777 == 0o600


async def test_socket_when_its_state_directory_has_a_long_name_then_it_works(host: LauncherHost) -> None:
    host.state_dir = host.home / ("d" * 120)
    host.state_dir.mkdir()

    client = await host.start()

    assert (await host.run(client, host.order("/bin/true"))).exit_code == 0


async def test_socket_when_a_stranger_connects_then_it_is_turned_away(host: LauncherHost) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    client = await host.start()
    for directory in (host.home, host.state_dir, host.state_dir / "launchers"):
        directory.chmod(0o755)
    socket = host.state_dir / "launchers" / f"{client.launcher}.sock"
    socket.chmod(0o666)
    asking = (
        "import os, socket, sys\nos.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[2])\n"
        "s.settimeout(60); print('closed' if s.recv(1) == b'' else 'open')\n"
    )
    order = host.python(asking)
    order = msgspec.structs.replace(order, argv=(*order.argv, str(socket)))

    await host.run(client, order)

    assert Path(order.log).read_text() == "closed\n"


async def test_hello_when_many_connections_say_nothing_then_it_is_answered_anyway(host: LauncherHost) -> None:
    client = await host.start(epoch=1)
    order = host.staying()
    await host.running(client, order)
    silent = []
    for _ in range(40):
        silent.append(host.wire(client.launcher))
        await client.list_runs()  # a turn of its loop, which accepts the connection

    answer = host.wire(client.launcher).hello(host.instance, epoch=2)

    assert answer["op"] == "hello"
    assert silent[0].hear() == []


async def test_descriptors_when_connections_come_and_go_then_each_is_closed(host: LauncherHost) -> None:
    client = await host.start()
    descriptors = Path(f"/proc/{client.facts.pid}/fd")
    await client.list_runs()
    before = len(list(descriptors.iterdir()))

    for _ in range(30):
        wire = host.wire(client.launcher)
        wire.send_raw(b"\xff" * 8)
        assert wire.hear() == []
        wire.close()

    assert until(lambda: len(list(descriptors.iterdir())) == before)
