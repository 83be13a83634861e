"""The sweep without a launcher, and the ladder through one."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stoker.core.raw_bytes import native
from stoker.process import stopping
from stoker.process.identity import scan
from stoker.process.messages import Exited, RunState
from stoker.process.stopping import Ladder, Sweep, await_end, stop_unborn, sweep
from tests.support.apart import fill_descriptors, run_apart_async, spare_descriptors
from tests.support.descriptors import count_fds
from tests.support.facts import DEADLINE_S, scales, until, until_async
from tests.support.instance import Stranger, ended
from tests.support.strace import why_not

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stoker.core.job.model import Identity
    from stoker.process.messages import LaunchOrder
    from tests.support.instance import LauncherHost

GRACE_MS = 10_000
OF_THE_LOOP = 1  # asyncio watches the end of a pipe of its own
LONG_MS = 600_000


async def orphan(host: LauncherHost, order: LaunchOrder, *words: str) -> Identity:
    """The main process of a run whose launcher was killed."""
    client = await host.start()
    who = client.identity(await host.running(client, order, *words))
    await kill_launcher(host, client.facts.pid)
    return who


async def kill_launcher(host: LauncherHost, pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    await host.gone_from_proc(pid)


async def test_sweep_when_a_tree_is_orphaned_then_sigterm_ends_it_and_nothing_is_left(host: LauncherHost) -> None:
    order = host.shell("sh -c 'echo near; read _ < $0' $0 & setsid sh -c 'echo far; read _ < $0' $0 & read _ < $0")
    await orphan(host, order, "near", "far")
    before = len(host.workers())

    result = await sweep(host.instance, [order.run_id], grace_ms=GRACE_MS)

    assert before == 3
    assert (result.killed, result.left) == (3, ())
    assert host.workers() == []
    assert scan(host.instance).runs == {}


async def test_sweep_when_the_tree_is_larger_than_we_may_open_files_then_all_of_it_ends(host: LauncherHost) -> None:
    many = "for _ in $(seq 80); do sh -c 'read _ < $0' $0 & done"
    order = host.shell(f"{many}; echo up; read _ < $0")
    await orphan(host, order, "up")

    result = await run_apart_async(sweep_with_descriptors, host.instance, order.run_id, 60)

    assert result == [81, []]
    assert host.workers() == []


async def sweep_with_descriptors(instance: str, run_id: str, count: int) -> tuple[int, Sequence[int]]:
    with spare_descriptors(count):
        result = await sweep(instance, [run_id], grace_ms=GRACE_MS)
    return result.killed, result.left


async def test_sweep_when_descriptors_run_out_anywhere_then_it_closes_its_own(host: LauncherHost) -> None:
    order = host.shell("sh -c 'sleep 600' & env -i sleep 600 & echo up; read _ < $0")
    await orphan(host, order, "up")

    failures, left = await run_apart_async(sweep_until_it_succeeds, host.instance, order.run_id)

    assert failures
    assert left == []
    assert host.workers() == []


async def sweep_until_it_succeeds(instance: str, run_id: str) -> tuple[int, Sequence[int]]:
    """With one descriptor more for each try. How often it failed without one, and the processes that are left."""
    fill_descriptors()
    fds, tasks = count_fds(), len(asyncio.all_tasks())
    for failures in range(100):
        try:
            with spare_descriptors(failures):
                return failures, (await sweep(instance, [run_id], grace_ms=GRACE_MS)).left
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
        assert (count_fds(), len(asyncio.all_tasks())) == (fds, tasks)
    raise AssertionError("it never succeeded")


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
async def test_sweep_when_the_kernel_has_no_room_for_a_watch_then_it_leaves_nothing_open(host: LauncherHost) -> None:
    order = host.shell("echo up; read _ < $0")
    await orphan(host, order, "up")
    fault = f"epoll_ctl:error=ENOMEM:when={OF_THE_LOOP + 1}"

    failed = await run_apart_async(sweep_that_fails, host.instance, order.run_id, fault=fault)

    assert failed == [errno.ENOMEM, 0, 0]
    await sweep(host.instance, [order.run_id], grace_ms=GRACE_MS)
    assert host.workers() == []


async def sweep_that_fails(instance: str, run_id: str) -> tuple[int | None, int, int]:
    """The error, and how many descriptors and tasks it left."""
    fds, tasks = count_fds(), len(asyncio.all_tasks())
    with pytest.raises(OSError, match="Cannot allocate memory") as failed:
        await sweep(instance, [run_id], grace_ms=GRACE_MS)
    return failed.value.errno, count_fds() - fds, len(asyncio.all_tasks()) - tasks


async def test_sweep_when_it_heeds_sigterm_then_it_may_clean_up_first(host: LauncherHost) -> None:
    order = host.shell("trap 'touch cleaned; exit' TERM; sh -c 'echo up; read _ < $0' $0 & wait")
    await orphan(host, order, "up")

    await sweep(host.instance, [order.run_id], grace_ms=GRACE_MS)

    assert (host.home / "cleaned").exists()


async def test_sweep_when_it_stopped_itself_then_sigterm_still_reaches_it(host: LauncherHost) -> None:
    order = host.shell("trap 'touch cleaned; exit' TERM; echo up; kill -STOP $$")
    who = await orphan(host, order, "up")
    await until_async(lambda: " T " in Path(f"/proc/{who.pid}/stat").read_text())

    await sweep(host.instance, [order.run_id], grace_ms=GRACE_MS)

    assert (host.home / "cleaned").exists()


@pytest.mark.parametrize("grace_ms", [0, 50])
async def test_sweep_when_it_ignores_sigterm_then_sigkill_follows_the_grace(host: LauncherHost, grace_ms: int) -> None:
    order = host.deaf()
    await orphan(host, order, "up")

    result = await sweep(host.instance, [order.run_id], grace_ms=grace_ms)

    assert result.left == ()
    assert host.workers() == []


async def test_sweep_when_others_look_the_same_then_they_are_never_signalled(host: LauncherHost) -> None:
    order = host.staying()
    await orphan(host, order)
    argv = [native(text) for text in order.argv]
    decoys = [
        Stranger(host, *argv),
        Stranger(host, *argv, STOKER_RUN_ID=order.run_id),
        Stranger(host, *argv, STOKER_RUN_ID=order.run_id, STOKER_INSTANCE="another"),
        Stranger(host, *argv, STOKER_RUN_ID=f"{order.run_id}0", STOKER_INSTANCE=host.instance),
        Stranger(host, *argv, NOT_STOKER_RUN_ID=order.run_id, STOKER_INSTANCE=host.instance),
    ]
    until(lambda: all(b"never" in Path(f"/proc/{decoy.pid}/cmdline").read_bytes() for decoy in decoys))

    result = await sweep(host.instance, [order.run_id], grace_ms=GRACE_MS)

    assert result.killed == 1
    assert [decoy.ended() for decoy in decoys] == [False] * len(decoys)


async def test_sweep_when_another_run_was_not_asked_for_then_it_goes_on(host: LauncherHost) -> None:
    client = await host.start()
    mine, other = host.staying(), host.staying()
    await host.running(client, mine)
    started = await host.running(client, other)
    await kill_launcher(host, client.facts.pid)

    await sweep(host.instance, [mine.run_id], grace_ms=0)

    assert not ended(started.pid)


async def test_sweep_when_a_child_emptied_its_environment_then_its_parent_leads_to_it(host: LauncherHost) -> None:
    order = host.shell("setsid env -i sh -c 'echo hidden; read _ < $0' $0 & read _ < $0")
    await orphan(host, order, "hidden")

    result = await sweep(host.instance, [order.run_id], grace_ms=0)

    assert result.killed == 2
    assert host.workers() == []


async def test_sweep_when_the_main_process_shows_nothing_then_its_identity_proves_it(host: LauncherHost) -> None:
    order = host.shell("exec prlimit --rttime=unlimited env -i sh -c 'echo hidden; read _ < $0' $0")
    who = await orphan(host, order, "hidden")

    without = await sweep(host.instance, [order.run_id], grace_ms=0)
    lives = not ended(who.pid)
    with_identity = await sweep(host.instance, [order.run_id], grace_ms=0, mains={order.run_id: who})

    assert (without.killed, lives) == (0, True)
    assert with_identity.killed == 1
    assert ended(who.pid)


async def test_sweep_when_it_forks_meanwhile_then_its_children_are_swept_too(host: LauncherHost) -> None:
    order = host.shell(
        "trap 'setsid sh -c \"trap : TERM; read _ < $0\" $0 & exit' TERM; sh -c 'echo up; read _ < $0' $0 & wait"
    )
    await orphan(host, order, "up")

    result = await sweep(host.instance, [order.run_id], grace_ms=GRACE_MS)

    assert result.left == ()
    assert host.workers() == []


async def test_sweep_when_a_nameless_child_outlives_its_parent_then_it_is_not_forgotten(host: LauncherHost) -> None:
    deaf = 'trap "" TERM; echo hidden; read _ < $0'
    order = host.shell(f"prlimit --rttime=unlimited setsid env -i sh -c '{deaf}' $0 & read _ < $0")
    await orphan(host, order, "hidden")

    result = await sweep(host.instance, [order.run_id], grace_ms=100)

    assert (result.killed, result.left) == (2, ())
    assert host.workers() == []


async def test_sweep_when_a_second_stop_comes_then_it_knows_what_the_first_met(host: LauncherHost) -> None:
    deaf = 'trap "" TERM; echo hidden; read _ < $0'
    order = host.shell(f"prlimit --rttime=unlimited setsid env -i sh -c '{deaf}' $0 & read _ < $0")
    main = await orphan(host, order, "hidden")

    with Sweep(host.instance, [order.run_id]) as shared:
        patient = asyncio.ensure_future(shared.stop(LONG_MS))
        await until_async(lambda: ended(main.pid), why="the end of the parent")
        impatient = await shared.stop(0)

        assert (impatient.left, (await patient).left) == ((), ())
        assert host.workers() == []


async def test_sweep_when_nothing_carries_the_run_then_nothing_is_done(host: LauncherHost) -> None:
    result = await sweep(host.instance, ["1.1.aa"], grace_ms=GRACE_MS)

    assert (result.killed, result.left) == (0, ())


async def test_stop_unborn_when_a_dead_launchers_child_is_named_then_only_it_is_stopped(host: LauncherHost) -> None:
    marks = {"STOKER_LAUNCHER": "1-dead0000", "STOKER_INSTANCE": host.instance}
    unborn = Stranger(host, "/bin/sleep", "600", **marks)
    decoys = [
        Stranger(host, "/bin/sleep", "600", STOKER_LAUNCHER="1-dead0000"),
        Stranger(host, "/bin/sleep", "600", **(marks | {"STOKER_LAUNCHER": "2-11fe0000"})),
        Stranger(host, "/bin/sleep", "600", STOKER_RUN_ID="1.1.aa", STOKER_INSTANCE=host.instance),
        Stranger(host, "/bin/sleep", "600", STOKER_RUN_ID="1.1.aa", **marks),
    ]

    await stop_unborn({"1-dead0000": [unborn.pid, *(decoy.pid for decoy in decoys)]}, host.instance)

    assert unborn.ended()
    assert not any(decoy.ended() for decoy in decoys)


async def test_await_end_when_the_process_ends_then_it_returns_and_not_before(host: LauncherHost) -> None:
    order = host.staying()
    who = await orphan(host, order)

    waiting = asyncio.ensure_future(await_end(who, host.instance, order.run_id))
    await asyncio.wait({waiting}, timeout=0.05)
    waited = not waiting.done()
    os.kill(who.pid, signal.SIGKILL)

    await asyncio.wait_for(waiting, DEADLINE_S)
    assert waited


async def test_await_end_when_the_process_is_not_ours_then_it_returns_at_once(host: LauncherHost) -> None:
    order = host.staying()
    who = await orphan(host, order)
    os.kill(who.pid, signal.SIGKILL)
    await host.gone_from_proc(who.pid)

    await asyncio.wait_for(await_end(who, host.instance, order.run_id), DEADLINE_S)


# --- the ladder


async def test_ladder_when_the_tree_heeds_sigterm_then_sigkill_is_never_sent(host: LauncherHost) -> None:
    client = await host.start()
    order = host.shell("trap 'echo cleaned; exit 3' TERM; sh -c 'echo up; read _ < $0' $0 & wait")
    await host.running(client, order, "up")
    ladder = Ladder(client, order.run_id, LONG_MS)

    delivered = await ladder.begin()

    exited = await host.heard(Exited, order)
    ladder.end()
    assert delivered
    assert (exited.exit_code, exited.stopped) == (3, True)


async def test_ladder_when_the_tree_ignores_sigterm_then_sigkill_follows_the_grace(host: LauncherHost) -> None:
    client = await host.start()
    for grace_ms in scales(50):  # the launcher may need longer for an answer than a short grace lasts
        order = host.deaf()
        await host.running(client, order, "up")
        ladder = Ladder(client, order.run_id, grace_ms)
        await ladder.begin()
        if await host.state(client, order) is RunState.RUNNING:
            break

    exited = await host.heard(Exited, order)
    ladder.end()
    assert exited.signal == signal.SIGKILL


async def test_ladder_when_the_run_was_over_then_it_says_that_nothing_was_delivered(host: LauncherHost) -> None:
    client = await host.start()
    order = host.order("/bin/true")
    await host.run(client, order)
    ladder = Ladder(client, order.run_id, 0)

    assert not await ladder.begin()
    ladder.end()


async def test_ladder_when_it_was_ended_then_no_further_step_is_taken(host: LauncherHost) -> None:
    client = await host.start()
    order = host.deaf()
    await host.running(client, order, "up")
    ladder = Ladder(client, order.run_id, 1_000)
    await ladder.begin()

    ladder.end()

    later = asyncio.Event()
    asyncio.get_running_loop().call_later(1.1, later.set)  # well after the next step would have been due
    await later.wait()
    assert await host.state(client, order) is RunState.RUNNING


async def test_ladder_when_its_launcher_is_silent_then_no_signals_pile_up(
    host: LauncherHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await host.start(stuck_ms=200)
    order = host.staying()
    await host.running(client, order)
    monkeypatch.setattr(stopping, "KILL_AGAIN_S", 0.001)
    ladder = Ladder(client, order.run_id, 0)
    os.kill(client.facts.pid, signal.SIGSTOP)
    begin = asyncio.ensure_future(ladder.begin())
    await until_async(lambda: client.stuck)

    waiting = len(client._asked)

    os.kill(client.facts.pid, signal.SIGCONT)
    await begin
    await host.heard(Exited, order)
    ladder.end()
    assert waiting <= 2


async def test_ladder_when_the_launcher_is_lost_then_begin_raises_and_no_step_follows(host: LauncherHost) -> None:
    client = await host.start()
    order = host.staying()
    await host.running(client, order)
    os.kill(client.facts.pid, signal.SIGKILL)
    await until_async(lambda: client.lost)
    ladder = Ladder(client, order.run_id, 0)

    with pytest.raises(ConnectionError):
        await ladder.begin()

    ladder.end()
