"""The screen of `stoker top`: the tabs, the news of the daemon and where they go, and the end.

Owns the stream of all changes, the banner while the daemon is away, and the exit status. While the daemon is away
nothing is asked but, once a second, whether it is back; then everything is read again, so nothing is missed.
"""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.widgets import ContentSwitcher, Footer, Static, Tab, Tabs

from stoker.cli.kit.render import visible
from stoker.cli.screen import head
from stoker.cli.screen.details import JobScreen
from stoker.cli.screen.dialogs import Help, TooSmall, is_too_small
from stoker.cli.screen.jobs_pane import JobsPane
from stoker.cli.screen.query import Query
from stoker.cli.screen.queues_pane import QueuesPane
from stoker.cli.screen.session import Session
from stoker.cli.screen.workflows_pane import WorkflowScreen, WorkflowsPane

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stoker.cli.screen.background import StreamFollower
    from stoker.core.daemon_views import StatusView
    from stoker.core.errors import StokerError
    from stoker.core.wire_types import ChangeShape
    from stoker.rpc.client import Client

INTERRUPTED = 130
REDRAW_S = 0.25  # so often news are shown at most
WATCH_AGAIN_S = 1.0
PANES = {"jobs": "1 Jobs", "workflows": "2 Workflows", "queues": "3 Queues"}


class TopApp(Session):
    TITLE = "stoker top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #banner { display: none; height: auto; background: $error; color: $text; text-style: bold; padding: 0 1; }
    #banner.shown { display: block; }
    #head { height: auto; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
    Tabs { height: 1; }
    Tabs Underline { display: none; }
    ContentSwitcher { height: 1fr; }
    """
    BINDINGS: ClassVar = [
        Binding("1", "show_pane('jobs')", "Jobs", show=False),
        Binding("2", "show_pane('workflows')", "Workflows", show=False),
        Binding("3", "show_pane('queues')", "Queues", show=False),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("q", "quit", "Quit"),
        Binding("ctrl+c", "interrupt", "Quit", show=False, priority=True),
    ]

    def __init__(self, socket: str | None, every_s: float) -> None:
        super().__init__(socket)
        self._every_s = every_s
        self.status: StatusView | None = None
        self._banner = Static(id="banner")
        self._head = Static(head.lines(None), id="head")
        self._jobs, self._workflows, self._queues = JobsPane(), WorkflowsPane(), QueuesPane()
        self._pane = "jobs"
        self._away = False
        self._status_is_asked = False
        self._watch = self._new_watch()

    def compose(self) -> ComposeResult:
        yield self._banner
        yield self._head
        yield Tabs(*(Tab(label, id=f"tab-{pane}") for pane, label in PANES.items()))
        with ContentSwitcher(initial="jobs"):
            yield self._jobs
            yield self._workflows
            yield self._queues
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.action_interrupt)
        self._jobs.grid.focus()
        self.start_threads()
        self._watch.start()
        self.set_interval(REDRAW_S, self._redraw)
        self.set_interval(self._every_s, self._tick)
        self._tick()

    def on_unmount(self) -> None:
        self._watch.stop()
        self.stop_threads()

    # --- news of the daemon ---------------------------------------------------------------------------------

    def _new_watch(self) -> StreamFollower:
        return self.follower(_changes, self._take_changes, lost=self.away_with, ended=self._watch_ended)

    def _take_changes(self, changes: Sequence[ChangeShape] | None) -> None:
        """None: the stream was opened. What is read from now on is as new as its first change, or newer."""
        if changes is None:
            self._jobs.reload()
        else:
            self._jobs.changed(changes)
        self._workflows.changed()
        self._renew_details(changes)

    def _renew_details(self, changes: Sequence[ChangeShape] | None) -> None:
        for screen in self.screen_stack:
            if isinstance(screen, WorkflowScreen):
                screen.is_old = True
            elif isinstance(screen, JobScreen):
                screen.is_old |= changes is None or any(change["job"] == screen.job for change in changes)

    def _watch_ended(self, error: StokerError | None) -> None:
        """The daemon took its cursor back, as after a restore, or ended the stream: begin anew."""
        self._watch = self._new_watch()
        self.set_timer(WATCH_AGAIN_S, self._watch.start)
        if error is not None:
            self.fail(error)

    def _tick(self) -> None:
        if not self.is_running:
            return
        if not self._status_is_asked:
            self._status_is_asked = True
            self.ask(lambda client: client.status(), self._take_status, self._take_no_status)
        self._jobs.tick()
        if self._pane == "workflows":
            self._workflows.tick()
        if isinstance(self.screen, JobScreen | WorkflowScreen) and self.screen.is_old:
            self.screen.load()

    def _take_no_status(self, error: StokerError) -> None:
        self._status_is_asked = False
        self.away_with(error)

    def _take_status(self, status: StatusView) -> None:
        self.status, self._status_is_asked = status, False
        if self._away:
            self._away = False
            self._banner.remove_class("shown")
            self._jobs.reload()
        lines = head.lines(status)
        self._head.update(lines, layout=lines.plain.count("\n") + 1 != self._head.size.height)
        self._queues.take(status["queues"])

    def away_with(self, error: StokerError) -> None:
        """The daemon is away, or has no room for us now; an error that asking again does not help is a notice."""
        if not error.transient:
            self.fail(error)
            return
        self._away = True
        self._banner.update(Text(f"The daemon is away, trying again: {visible(error.message)}"))
        self._banner.add_class("shown")

    def _redraw(self) -> None:
        if self.is_running:
            self._jobs.show()

    # --- keys -----------------------------------------------------------------------------------------------

    def action_show_pane(self, pane: str) -> None:
        self.query_one(Tabs).active = f"tab-{pane}"

    @on(Tabs.TabActivated)
    def _tab_activated(self, event: Tabs.TabActivated) -> None:
        self._pane = (event.tab.id or "").removeprefix("tab-")
        self.query_one(ContentSwitcher).current = self._pane
        if self._pane == "workflows":
            self._workflows.tick()
        self.query_one(f"#{self._pane} Grid").focus()

    @on(QueuesPane.QueueChosen)
    def _queue_chosen(self, event: QueuesPane.QueueChosen) -> None:
        """The live jobs of that queue."""
        self.action_show_pane("jobs")
        self._jobs.ask_for(Query().with_text(f"queue:{event.queue}"))

    def action_help(self) -> None:
        if not isinstance(self.screen, Help):
            self.push_screen(Help(_keys(self)))

    def action_interrupt(self) -> None:
        self.exit(return_code=INTERRUPTED)

    def on_resize(self, event: events.Resize) -> None:
        small, shown = is_too_small(*event.size), isinstance(self.screen, TooSmall)
        if small and not shown:
            self.push_screen(TooSmall())
        elif shown and not small:
            self.pop_screen()


def _changes(client: Client) -> Iterator[Sequence[ChangeShape] | None]:
    """All changes from now on, after a None that says that the daemon answers."""
    status = client.status()
    yield None
    params = {"after": status["last_seq"], "history": status["history"]}
    for batch in client.follow("watch", params):
        yield batch["changes"]


def _keys(app: TopApp) -> list[tuple[str, str]]:
    """Every key that acts now, from the bindings themselves; the keys of one action stand together."""
    keys: dict[str, list[str]] = {}
    for active in app.screen.active_bindings.values():
        meaning = active.binding.tooltip or active.binding.description
        if meaning:
            keys.setdefault(meaning, []).append(app.get_key_display(active.binding))
    return [(" ".join(of_one), meaning) for meaning, of_one in keys.items()]
