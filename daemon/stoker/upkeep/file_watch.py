"""Watches the paths for which jobs wait, and posts to the loop what was seen there.

Owns the inotify instance, which path has which watches, and the threads of the looks. A path is looked at when a job
begins to wait for it, when the kernel reports a change (of the path, of the mounts, or a loss of notices), and at a
start. Where the kernel may not report changes, as on a network file system or at the limit of watches, paths are
polled.

Invariants: there is one look on each file system at a time, at whichever mount point; one that hangs takes one thread,
and no other begins there; a change after a look began leads to another look.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from msgspec import Struct, field

from stoker.background.tasks import BackgroundTasks
from stoker.core.clock import Clock
from stoker.core.job.conditions import OF_FILES, ConditionKind, kind_of, target_of
from stoker.core.raw_bytes import printable
from stoker.core.units import span
from stoker.engine.conditions import FileSeen
from stoker.engine.inbox import Inbox
from stoker.engine.memory import LiveState, awaited
from stoker.engine.turn import Turn
from stoker.host.inotify import FileNotice, Inotify
from stoker.host.mounts import Mounts
from stoker.host.path_looks import LIMITS, Sight, Surroundings, look_at_path
from stoker.host.threads import start_threads
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log
from stoker.upkeep.watched_names import WatchedName, WatchedNames

if TYPE_CHECKING:
    from stoker.core.host_views import FilesView

THREADS = 4
SUBMIT_THREADS = 2  # for jobs that are being submitted, so that these never take the others
PATIENCE_MS = 2_000  # a look that takes longer hangs
UNTOLD_EVERY_MS = 10_000  # between two looks where the kernel may not report changes
# Between two reads of notices: meanwhile the kernel puts equal ones together, so a directory in which a million files
# come and go costs little.
BREATH_S = 0.02
MOUNTS_BREATH_S = 1.0  # as above, where each notice leads to a look at every path
MOST_HANGING_SHOWN = 3
MOST_EARLY = 1_000  # names in one directory; with more any name may have changed


class WatchedPath(Struct):
    """A path for which jobs wait. `posted`: by condition, the last sight that was posted, and up to which job.

    `names`: what is watched for it. `at`: when it was looked at (steady ms).
    """

    posted: dict[str, tuple[str | None, int]] = field(default_factory=dict)
    names: list[WatchedName] = field(default_factory=list)
    sight: Sight | None = None
    at: int = 0
    asked: bool = False  # another look is to come


class Look(Struct):
    """A look since `began` (steady ms), when `last_job` was the newest job."""

    path: str
    began: int
    last_job: int
    sight: Sight = field(default_factory=Sight)
    hangs: bool = False


class FirstLooks(Struct):
    """Looks since `began` (steady ms) at the paths of these conditions, one after the other, until they are `late`.

    There may be as many as a request can name: a task for each would take longer than the looks.
    """

    conditions: Sequence[str]
    began: int
    seen: dict[str, str] = field(default_factory=dict)
    sight: Sight = field(default_factory=Sight)
    hangs: bool = False
    late: bool = False

    def look_at_paths(self, around: Surroundings) -> None:
        for condition in self.conditions:
            if self.late:
                return
            self.sight = Sight()
            look_at_path(self.sight, target_of(condition), None, around, content=False)
            if self.sight.seen is not None:
                self.seen[condition] = self.sight.seen


class FileWatch:
    def __init__(self, memory: LiveState, inbox: Inbox, clock: Clock, background: BackgroundTasks) -> None:
        self._memory = memory
        self._inbox = inbox
        self._clock = clock
        self._background = background
        self._paths: dict[str, WatchedPath] = {}
        self._names = WatchedNames()
        self._queues: dict[int, deque[str]] = {}  # paths to be looked at, by file system
        self._looks: dict[str, Look] = {}
        self._submits: list[FirstLooks] = []  # for jobs that are being submitted
        self._early: dict[int, set[bytes]] = {}  # by watch: names in notices since the looks that go on began
        self._threads = start_threads(THREADS, "file-looks")
        self._submit_threads = start_threads(SUBMIT_THREADS, "first-file-looks")
        self._inotify: Inotify | None = None
        self._mounts: Mounts | None = None
        self._problem: str | None = None  # why the kernel reports no changes
        self._resuming: dict[int, asyncio.TimerHandle] = {}  # by descriptor

    # --- which paths ---

    def begin(self) -> None:
        for condition in self._memory.awaited:
            self._watch_condition(condition, anew=True)
        self._go_on()

    def after_commit(self, turn: Turn) -> None:
        for transition in turn.transitions:
            before, job = transition.before, transition.job
            if not (job.conditions_open or (before is not None and before.conditions_open)):
                continue
            was, now = set() if before is None else {*awaited(before)}, {*awaited(job)}
            for condition in sorted(was ^ now):
                if self._memory.awaited[condition]:
                    self._watch_condition(condition, anew=before is not None and condition in now)
                else:
                    self._forget(condition)
        self._go_on()

    def _watch_condition(self, condition: str, *, anew: bool) -> None:
        """Look at the path of a condition. `anew`: an older job begins to wait again, so all jobs get the sight."""
        if kind_of(condition) not in OF_FILES:
            return
        watched = self._paths.setdefault(target_of(condition), WatchedPath())
        if anew or condition not in watched.posted:
            watched.posted[condition] = None, 0
        self._ask(target_of(condition))

    def _forget(self, condition: str) -> None:
        """No job waits for it any more."""
        path = target_of(condition)
        watched = self._paths.get(path)
        if watched is not None:
            watched.posted.pop(condition, None)
            if not watched.posted:
                self._names.remove(path, watched.names)
                self._drop(watched.names)
                del self._paths[path]

    def _drop(self, names: Iterable[WatchedName]) -> None:
        """Remove watches that no path has. If a look has just set one again, the kernel's notice of that is `early`."""
        for watch in {watch for watch, _ in names}:
            if watch not in self._names and self._inotify is not None:
                self._inotify.unwatch(watch)

    # --- looks ---

    def _ask(self, path: str) -> None:
        """A look at a path is to begin; `_go_on` begins it."""
        if not self._paths[path].asked:
            self._paths[path].asked = True
            self._queues.setdefault(self._device(path), deque()).append(path)

    def _go_on(self) -> None:
        """Begin the looks that may begin: one on each file system, as another one would hang where the first does."""
        if not self._queues:
            return
        self._listen()
        taken = self._hanging() | {self._device(each.path) for each in self._looks.values() if not each.hangs}
        for device in self._queues.keys() - taken:
            if len(self._looks) >= THREADS:
                return
            self._begin_next(device)

    def _begin_next(self, device: int) -> None:
        queue = self._queues[device]
        while queue:
            path = queue.popleft()
            watched = self._paths.get(path)
            if watched is None or not watched.asked:
                continue
            watched.asked = False
            if path not in self._looks:  # else an earlier look hangs, and another one follows when it ends
                self._begin_look(path, watched)
                break
        if not queue:
            del self._queues[device]

    def _hanging(self) -> set[int]:
        """The file systems on which looks hang."""
        return {self._device(each.sight.at) for each in self._under_way() if each.hangs}

    def _under_way(self) -> Iterator[Look | FirstLooks]:
        yield from self._looks.values()
        yield from self._submits

    def _begin_look(self, path: str, watched: WatchedPath) -> None:
        begun = Look(path, self._clock.now().steady, self._memory.last_id, Sight(untold=self._problem))
        self._looks[path] = begun
        content = any(kind_of(condition) is ConditionKind.FILE_CHANGED for condition in watched.posted)
        watch = None if self._inotify is None else self._inotify.watch
        work = partial(look_at_path, begun.sight, path, watch, self._surroundings(), content=content)
        self._background.start("look at a file", self._run_look(begun, work))

    def _surroundings(self) -> Surroundings:
        """A link may lead any path to a file system on which a look hangs, so every look knows where these are."""
        mounts = self._mounts
        return Surroundings() if mounts is None else Surroundings(mounts.kinds, mounts.points_of(self._hanging()))

    async def _run_look(self, begun: Look, work: Callable[[], None]) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            del self._looks[begun.path]
        self._take_over(begun)
        if not any(not each.hangs for each in self._looks.values()):
            self._early.clear()
        self._go_on()

    def _take_over(self, begun: Look) -> None:
        """Take over the watches of a look, and post what it saw."""
        path, sight, watched = begun.path, begun.sight, self._paths.get(begun.path)
        if watched is None:  # meanwhile the last of its jobs was cancelled
            self._drop(sight.watches)
            return
        before, watched.names = watched.names, sight.watches
        self._names.remove(path, before)
        self._names.add(path, sight.watches)
        self._drop(before)
        if sight.untold is not None and (watched.sight is None or watched.sight.untold != sight.untold):
            log(LogEvent.FILE_UNTOLD, path=path, why=sight.untold, again_in_ms=UNTOLD_EVERY_MS)
        watched.sight, watched.at = sight, begun.began
        self._post_sight(watched, sight.seen, begun.last_job)
        if begun.hangs or self._changed_early(watched):
            self._ask(path)

    def _changed_early(self, watched: WatchedPath) -> bool:
        """Whether something changed in the directories of a path after the look at it began."""
        for watch, name in watched.names:
            names = self._early.get(watch)
            if names and (name is None or name in names or b"" in names):
                return True
        return False

    def _post_sight(self, watched: WatchedPath, seen: str | None, last_job: int) -> None:
        """Post what was seen. If it has not changed, only for the jobs that came since the last post."""
        if seen is None:
            return
        for condition, (before, up_to) in watched.posted.items():
            after = up_to if before == seen else 0
            watched.posted[condition] = seen, last_job
            matters = seen or kind_of(condition) is ConditionKind.FILE_CHANGED
            if matters and after < last_job:
                self._inbox.post(FileSeen(condition, seen, last_job, after))

    async def see(self, conditions: Sequence[str]) -> dict[str, str]:
        """The present state of the paths of these conditions, without those whose file system does not answer."""
        hanging, began = self._hanging(), self._clock.now().steady
        by_device: dict[int, list[str]] = {}
        if sum(each.hangs for each in self._submits) < SUBMIT_THREADS:
            for condition in conditions:
                by_device.setdefault(self._device(target_of(condition)), []).append(condition)
        looks = [FirstLooks(group, began) for device, group in by_device.items() if device not in hanging]
        if looks:
            tasks = [self._background.start("first look at files", self._see(each)) for each in looks]
            await asyncio.wait(tasks, timeout=PATIENCE_MS / 1_000)
        self._notice_hanging()
        seen: dict[str, str] = {}
        for each in looks:
            each.late = True
            seen |= each.seen
        return seen

    async def _see(self, each: FirstLooks) -> None:
        self._submits.append(each)
        try:
            work = partial(each.look_at_paths, self._surroundings())
            await asyncio.get_running_loop().run_in_executor(self._submit_threads, work)
        finally:
            self._submits.remove(each)

    # --- what the kernel tells ---

    def _listen(self) -> None:
        """Begin to listen for changes. If the kernel refuses, paths are polled."""
        if self._inotify is not None:
            return
        try:
            self._mounts = self._mounts or Mounts()
            self._inotify = Inotify()
        except OSError as error:
            self._problem = LIMITS.get(error.errno or 0) or f"{error.filename}: {error.strerror}"
            return
        self._problem = None
        self._hear(self._mounts.fd)
        self._hear(self._inotify.fd)

    def _hear(self, fd: int) -> None:
        self._resuming.pop(fd, None)
        asyncio.get_running_loop().add_reader(fd, self._news, fd)

    def _news(self, fd: int) -> None:
        assert self._inotify is not None, "both descriptors are heard"
        assert self._mounts is not None, "both descriptors are heard"
        loop = asyncio.get_running_loop()
        loop.remove_reader(fd)
        if fd == self._inotify.fd:
            self._resuming[fd] = loop.call_later(BREATH_S, self._hear, fd)
            self._heard(self._inotify.read())
        else:  # a mount may hide any path, and no watch reports that
            self._resuming[fd] = loop.call_later(MOUNTS_BREATH_S, self._hear, fd)
            self._mounts.read()
            self._ask_all()
        self._go_on()

    def _ask_all(self) -> None:
        for path in self._paths:
            self._ask(path)

    def _heard(self, notices: Sequence[FileNotice]) -> None:
        if any(notice.lost for notice in notices):
            self._ask_all()
            return
        if any(not each.hangs for each in self._looks.values()):
            self._note_early(notices)
        for notice in dict.fromkeys(notices):
            for path in self._names.concerned(notice):
                self._ask(path)

    def _note_early(self, notices: Iterable[FileNotice]) -> None:
        for notice in notices:
            names = self._early.setdefault(notice.watch, set())
            names.add(notice.name if len(names) < MOST_EARLY else b"")

    def _device(self, path: str) -> int:
        return 0 if self._mounts is None else self._mounts.device_of(path)

    def tick(self) -> None:
        """Notice looks that hang, and poll the paths of which the kernel may not report changes."""
        self._notice_hanging()
        now = self._clock.now().steady
        for path, watched in self._paths.items():
            untold = watched.sight is not None and watched.sight.untold is not None
            if untold and now - watched.at >= UNTOLD_EVERY_MS:
                self._ask(path)
        self._go_on()

    def _notice_hanging(self) -> None:
        now = self._clock.now().steady
        for each in self._under_way():
            each.hangs = each.hangs or (each.sight.begun and now - each.began >= PATIENCE_MS)

    # --- what people see ---

    def words(self, condition: str) -> str:
        """The present state of a condition, in words."""
        path, now = target_of(condition), self._clock.now().steady
        watched, going_on = self._paths.get(path), self._looks.get(path)
        if going_on is not None and going_on.hangs:
            at = printable(going_on.sight.at)
            return f"{path}: the file system at {at} has not answered for {span(now - going_on.began)}"
        if watched is None or watched.sight is None:
            return f"{path} was not checked yet"
        sight = watched.sight
        unchanged = sight.seen and kind_of(condition) is ConditionKind.FILE_CHANGED
        state = f"{path} has not changed" if unchanged else sight.state
        again = span(UNTOLD_EVERY_MS)
        return state if sight.untold is None else f"{state}, looked at every {again}, as {sight.untold}"

    def view(self) -> FilesView:
        point_of = (lambda _path: "/") if self._mounts is None else self._mounts.point_of
        hanging = {point_of(each.sight.at) for each in self._under_way() if each.hangs}
        untold = [each.sight.untold for each in self._paths.values() if each.sight and each.sight.untold]
        return {
            "paths": len(self._paths),
            "untold": len(untold),
            "why": untold[0] if untold else None,
            "hanging": [printable(point) for point in sorted(hanging)[:MOST_HANGING_SHOWN]],
        }

    def close(self) -> None:
        loop = asyncio.get_running_loop()
        for handle in self._resuming.values():
            handle.cancel()
        for part in (self._inotify, self._mounts):
            if part is not None:
                loop.remove_reader(part.fd)
                part.close()
        self._inotify = self._mounts = None
        for threads in (self._threads, self._submit_threads):
            threads.shutdown(wait=False, cancel_futures=True)
