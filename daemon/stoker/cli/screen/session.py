"""The ways from every part of the screen to the daemon: calls and streams in the background, and confirmed actions.

Owns the connections for calls: one for reading, one for actions, as an action on a thousand jobs takes a while.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from textual.app import App
from textual.message import Message

from stoker.cli.screen.actions import ACTIONS, ActionResult, carry_out, question, summary, words
from stoker.cli.screen.background import AskedCall, Asker, StreamFollower
from stoker.cli.screen.dialogs import Confirm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from textual.notifications import SeverityLevel

    from stoker.core.errors import StokerError
    from stoker.rpc.client import Client


class News(Message):
    """Something that a thread got, to be handled by the thread of the screen."""

    def __init__(self, handle: Callable[[], object]) -> None:
        super().__init__()
        self.handle = handle


class Session(App[None]):
    def __init__(self, socket: str | None) -> None:
        super().__init__()
        self._socket = socket
        self._asker = Asker(socket, self.tell)
        self._actor = Asker(socket, self.tell)

    def run_to_its_end(self) -> int:
        """The exit status. Raises a bug of ours once the terminal is as it was: main.py reports it."""
        self.run()
        if self._exception is not None:
            raise self._exception
        return self.return_code or 0

    def _print_error_renderables(self) -> None:
        """Textual would print tracebacks."""

    def start_threads(self) -> None:
        self._asker.start()
        self._actor.start()

    def stop_threads(self) -> None:
        self._asker.stop()
        self._actor.stop()

    def tell(self, handle: Callable[[], object]) -> None:
        """Let the thread of the screen do it; any thread may call this."""
        self.post_message(News(handle))

    def on_news(self, news: News) -> None:
        if self.is_running:  # and not about to end, without its widgets
            news.handle()

    def ask(
        self,
        work: Callable[[Client], Any],
        done: Callable[[Any], object],
        failed: Callable[[StokerError], object] | None = None,
    ) -> None:
        """Call the daemon in the background; an error is a notice, unless `failed` takes it."""
        self._asker.ask(AskedCall(work, done, failed or self.fail))

    def follower(
        self,
        read: Callable[[Client], Iterator[Any]],
        each: Callable[[Any], object],
        *,
        lost: Callable[[StokerError], object],
        ended: Callable[[StokerError | None], object],
    ) -> StreamFollower:
        return StreamFollower(self._socket, self.tell, read, each, lost=lost, ended=ended)

    def fail(self, error: StokerError) -> None:
        self.notify(words(error), severity="error", markup=False)

    def away_with(self, error: StokerError) -> None:
        """The daemon did not answer a call that will be made again."""
        self.fail(error)

    def confirm(
        self,
        name: str,
        keys: Sequence[int | str],
        titles: Sequence[str],
        done: Callable[[], object] = lambda: None,
    ) -> None:
        """Ask whether to do it, and why; then do it in the background."""
        action = ACTIONS[name]
        what, facts = question(action, keys, titles)

        def answered(reason: str | None) -> None:
            if reason is None:
                return

            def finished(outcome: ActionResult) -> None:
                severity: SeverityLevel = "error" if outcome.errors else "information"
                self.notify(summary(action, outcome, keys), severity=severity, markup=False)
                done()

            self._actor.ask(AskedCall(lambda client: carry_out(client, action, keys, reason), finished, self.fail))

        self.push_screen(Confirm(what, facts, action.name.capitalize()), answered)
