"""The things that can happen in the simulated world, and when: the ordinary course, faults, and relief from faults.

Owns one table of each, from name to action, and `POSSIBLE`; the odds are in `walk.py`. An action changes the host, the
disk or the wires, and never the memory of the daemon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from stoker.core.host_state import Battery
from tests.simulation.host import STRANGE, Process
from tests.simulation.launchers import SimulatedLauncher, be_born
from tests.simulation.life import Life
from tests.simulation.wire import Wire
from tests.simulation.world import ENOUGH, World

Action = Callable[[World], None]
LEAPS_MS = (-30 * 86_400_000, -3_600_000, -3_000, -500, 500, 3_600_000, 30 * 86_400_000)
IDENTIFIED = "SELECT 1 FROM attempts WHERE run_id = ? AND pid IS NOT NULL"
EXITS = ((0, None), (0, None), (1, None), (64, None), (None, 11))


# --- what goes on by itself -------------------------------------------------------------------------------


def _start(world: World) -> None:
    world.laws.forget_uncommitted()
    world.whole()
    world.life = Life(world.host, world.disk, world.denials.check, world.slots)


def _turn(world: World) -> None:
    assert world.life is not None
    world.life.loop.turn()


def _launcher(world: World) -> None:
    world.pick([one for one in world.living() if one.restless]).turn()


def _wire(world: World) -> None:
    assert world.life is not None
    world.pick([wire for wire in world.life.wires if wire.news]).deliver()


def _thread(world: World) -> None:
    assert world.life is not None
    world.life.loop.run_thread()


def _worker(world: World) -> None:
    """A worker begins, forks, dies of its signal, or ends by itself."""
    host, chance = world.host, world.chance
    worker: Process = world.pick(host.living())
    if worker.sleeping:
        worker.sleeping = not world.calm and chance.random() < 0.98
    elif worker.doom is not None:
        host.die(worker, None, worker.doom)
    elif worker.unborn:
        be_born(host, world.laws, worker)
    elif not world.calm and chance.random() < (0.4 if host.is_orphan(worker) else 0.1):
        _fork(world, worker)
    elif not world.calm and chance.random() < 0.02:
        worker.sleeping = True
    elif world.calm or chance.random() < 0.3:
        host.die(worker, *world.pick(list(EXITS)))


def _fork(world: World, worker: Process) -> None:
    """Some children hide: in another session, without an environment, as another user.

    In all ways at once only where no launcher adopts them: then a sweep must remember the processes that it has met.
    """
    host, chance = world.host, world.chance
    child = host.spawn(worker.pid, worker.session, again=True)
    child.run_id, child.environ, child.mark = worker.run_id, worker.environ, worker.mark
    child.stubborn = chance.random() < 0.3
    child.secret = child.rooted = worker.rooted or chance.random() < 0.1
    if chance.random() < 0.2:
        child.environ = b""
        world.done["emptied environment"] += 1
    child.stayed = worker.stayed
    if worker.nameless or (host.is_orphan(worker) and chance.random() < 0.5):
        child.stubborn = True
        child.nameless, child.environ, child.mark = True, b"", 0
        child.session, child.stayed = child.pid, False
        world.done["nameless child"] += 1
    elif child.mark and chance.random() < 0.2:
        child.session, child.stayed = child.pid, False
    elif (
        child.stayed and chance.random() < 0.2 and world.disk.database.execute(IDENTIFIED, (worker.run_id,)).fetchone()
    ):
        # As sudo does it, which stays in the session. Its owner is known once the pid of its leader is on disk.
        child.mark = 0
    world.done["became root"] += child.rooted


def _time(world: World) -> None:
    """Let time pass: mostly a little, sometimes until the next timer; without faults always until the next event."""
    life, draw = world.life, world.chance.random()
    # A daemon that recovers gets its answers before its patience ends, if a launcher is there to give them.
    due = life.loop.next_ms() if life is not None and (life.ready or not world.moving(life)) else None
    if world.calm and world.life is not None and world.life.ready and draw > 0.99:
        world.host.pass_time(3_700_000)
    elif due is not None and draw < (0.5 if world.calm else 0.3):
        world.host.pass_time(min(due, 3_700_000))
    else:
        world.host.pass_time(int(draw * draw * 40))


def _submit(world: World) -> None:
    assert world.life is not None
    world.clients.submit(world.life, world.host)


def _verb(world: World) -> None:
    assert world.life is not None
    world.clients.speak(world.life)


def _emit(world: World) -> None:
    assert world.life is not None
    world.clients.emit(world.life)


def _plug(world: World) -> None:
    """A person pulls the plug of the host, or puts it in."""
    world.host.battery = Battery(plugged=world.calm or not world.host.battery.plugged)


def _touch(world: World) -> None:
    """A program makes, changes or removes a file."""
    world.places.touch(there=world.calm)


def _load(world: World) -> None:
    """The CPU becomes busy or calm."""
    world.host.cpu = 0.0 if world.calm or world.host.cpu else 50.0


def _use(world: World) -> None:
    """A person comes to a session, or leaves it; logind may send no notice of it, or end."""
    host, draw = world.host, world.chance.random()
    host.unused = world.calm or not host.unused
    if world.life is None:
        return
    with world.life.loop.running():
        for follower in host.followers if draw < 0.5 else ():
            follower.tell()
        for follower in host.followers if draw > 0.9 else ():
            follower.leave()


def _flow(world: World) -> None:
    assert world.life is not None
    world.flows.submit(world.life)


def _flow_verb(world: World) -> None:
    assert world.life is not None
    world.flows.speak(world.life)


def _queue_verb(world: World) -> None:
    assert world.life is not None
    world.clients.pause_or_resume_queue(world.life)


def _schedule_verb(world: World) -> None:
    assert world.life is not None
    world.schedules.speak(world.life, world.host)


def _end_schedules(world: World) -> None:
    assert world.life is not None
    world.schedules.end(world.life, world.schedule_laws.live())


def _let_go_on(world: World) -> None:
    """A person resumes what is paused."""
    assert world.life is not None
    world.flows.let_go_on(world.life, world.flow_laws.paused())
    world.clients.pause_or_resume_queue(world.life, paused=False)


def _clear_held(world: World) -> None:
    """A person cancels held jobs, which only a person may decide about."""
    assert world.life is not None
    world.clients.cancel(world.life, world.laws.held())


# --- faults -----------------------------------------------------------------------------------------------


def _kill_daemon(world: World) -> None:
    world.end_life()


def _kill_launcher(world: World) -> None:
    world.pick(world.living()).die()


def _kill_both(world: World) -> None:
    world.end_life()
    for one in world.living():
        one.die()


def _kill_in_spawn(world: World) -> None:
    """The launcher dies during its next spawn."""
    world.pick(world.living()).spawner.dies = True


def _reboot(world: World) -> None:
    """Reboot without notice; foreign processes get the pids of our workers."""
    before = world.host.workers()
    world.end_life()
    for one in world.launchers.values():
        one.process.ended = one.process.ended or (None, 9)
    world.host.boot()
    for worker in before:
        world.host.freed.append(worker.pid)
        world.host.replace(worker)


def _power_loss(world: World) -> None:
    """A reboot in the middle of a write."""
    _reboot(world)
    world.disk.forget_unsynced()


def _reuse_pid(world: World) -> None:
    """A foreign process gets the pid of a worker that just died, mostly one without a launcher."""
    mains = [worker for worker in world.host.workers() if worker.main and not worker.unborn]
    orphans = [worker for worker in mains if worker.parent == 1 and world.host.is_alone(worker)]
    if orphans:
        worker = world.pick(orphans)
        world.host.die(worker, *world.pick(list(EXITS)))
        stranger = world.host.replace(worker)
    else:
        stranger = world.host.spawn(1, again=True)
        stranger.environ = STRANGE
    stranger.secret = world.chance.random() < 0.2


def _clock_jump(world: World) -> None:
    world.host.wall += world.pick(list(LEAPS_MS))


def _suspend(world: World) -> None:
    """The daemon stands still for a minute while all others go on."""
    for _ in range(20):
        world.host.pass_time(3_000)
        for one in world.living():
            if not one.stuck:
                one.turn()
        if world.host.living():
            _worker(world)


def _io_error(world: World) -> None:
    world.disk.fails = world.pick(["before", "after"])


def _disk_full(world: World) -> None:
    world.disk.fails = "full"
    world.free_bytes = 0


def _disk_room(world: World) -> None:
    world.free_bytes = ENOUGH


def _stick(world: World) -> None:
    """A file system that hangs under a working directory: checks of commands hang for a while, perhaps all of them."""
    one = world.pick([one for one in world.living() if not one.stuck])
    one.stuck, one.full = True, world.chance.random() < 0.5


def _unstick(world: World) -> None:
    one = world.pick([one for one in world.living() if one.stuck])
    one.stuck = one.full = False


def _cut(world: World) -> None:
    """A connection to a living launcher ends."""
    one, wire = world.pick(connections(world))
    one.loop.hang_up(wire)


def connections(world: World) -> list[tuple[SimulatedLauncher, Wire]]:
    """Those of the living daemon to living launchers."""
    return [(one, wire) for one in world.living() for wire in one.wires if wire.daemon_end and wire.launcher_end]


def _lose_descriptors(world: World) -> None:
    world.denials.begin()


def _fail_call(world: World) -> None:
    world.denials.deny_once(world.chance)


def _get_descriptors(world: World) -> None:
    world.denials.end()


def _drain(world: World) -> None:
    assert world.life is not None
    world.life.drain()


COURSE: dict[str, Action] = {
    "start": _start, "turn": _turn, "disk": lambda world: world.disk.serve(), "launcher": _launcher, "wire": _wire,
    "thread": _thread, "worker": _worker, "time": _time, "submit": _submit, "verb": _verb, "flow": _flow,
    "flow verb": _flow_verb, "queue verb": _queue_verb, "emit": _emit, "plug": _plug,
    "touch": _touch, "load": _load, "use": _use, "schedule verb": _schedule_verb,
}  # fmt: skip
FAULTS: dict[str, Action] = {
    "kill daemon": _kill_daemon, "kill launcher": _kill_launcher, "kill both": _kill_both,
    "kill launcher in spawn": _kill_in_spawn, "power loss": _power_loss, "reboot": _reboot, "reuse pid": _reuse_pid,
    "clock jump": _clock_jump, "suspend": _suspend, "I/O error": _io_error, "disk full": _disk_full,
    "launcher stuck": _stick, "connection cut": _cut, "drain": _drain, "descriptors short": _lose_descriptors,
    "call fails": _fail_call,
}  # fmt: skip
RELIEF: dict[str, Action] = {
    "launcher back": _unstick, "descriptors back": _get_descriptors, "room on disk": _disk_room,
    "clear held": _clear_held, "let go on": _let_go_on, "end schedules": _end_schedules,
}  # fmt: skip
ACTIONS = COURSE | FAULTS | RELIEF

POSSIBLE: dict[str, Callable[[World], bool]] = {
    "start": lambda world: world.life is None,
    "turn": lambda world: world.life is not None and world.life.loop.restless,
    "disk": lambda world: bool(world.disk.asked),
    "launcher": lambda world: any(one.restless for one in world.living()),
    "wire": lambda world: world.life is not None and any(wire.news for wire in world.life.wires),
    "thread": lambda world: world.life is not None and bool(world.life.loop.threads),
    "worker": lambda world: bool(world.host.living()),
    "submit": lambda world: world.life is not None and world.life.ready,
    "verb": lambda world: world.life is not None and world.life.ready and bool(world.laws.answered),
    "flow": lambda world: world.life is not None and world.life.ready,
    "emit": lambda world: world.life is not None and world.life.ready,
    "flow verb": lambda world: world.life is not None and world.life.ready and bool(world.flow_laws.answered),
    "queue verb": lambda world: world.life is not None and world.life.ready,
    "schedule verb": lambda world: world.life is not None and world.life.ready,
    "end schedules": lambda world: (
        world.life is not None and world.life.ready and world.calm and bool(world.schedule_laws.live())
    ),
    "let go on": lambda world: world.life is not None and world.life.ready and world.paused(),
    "kill daemon": lambda world: world.life is not None,
    "kill launcher": lambda world: bool(world.living()),
    "kill both": lambda world: world.life is not None and bool(world.living()),
    "kill launcher in spawn": lambda world: bool(world.living()),
    "power loss": lambda world: bool(world.disk.asked),
    "launcher stuck": lambda world: any(not one.stuck for one in world.living()),
    "connection cut": lambda world: bool(connections(world)),
    "descriptors short": lambda world: world.life is not None and not world.denials.short,
    "call fails": lambda world: world.life is not None,
    "descriptors back": lambda world: world.denials.short,
    "launcher back": lambda world: any(one.stuck for one in world.living()),
    "room on disk": lambda world: world.free_bytes == 0,
    "clear held": lambda world: world.life is not None and world.life.ready and bool(world.laws.held()),
    "drain": lambda world: world.life is not None and world.life.ready and not world.life.draining,
}


def possible(world: World, among: Iterable[str]) -> list[str]:
    """The names of what may happen now."""
    return [name for name in among if name not in POSSIBLE or POSSIBLE[name](world)]
