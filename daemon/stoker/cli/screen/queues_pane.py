"""The table of queues, as each status of the daemon has them.

Owns its columns, and the keys that pause and resume a queue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.message import Message

from stoker.cli.queues import state_of
from stoker.cli.screen.grid import Grid
from stoker.cli.screen.rows import Column

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stoker.cli.screen.session import Session
    from stoker.core.daemon_views import QueueView


QUEUE_COLUMNS = (
    Column("QUEUE", 24),
    Column("CLASS", 8, gives_way=1),
    Column("STATE", 10),
    Column("RUNNING", 8, numeric=True),
    Column("QUEUED", 8, numeric=True),
    Column("WAITING", 8, numeric=True, gives_way=3),
    Column("HELD", 8, numeric=True, gives_way=2),
    Column("MAX RUNNING", 0),
)


class QueuesPane(Vertical):
    """All queues, as each status has them."""

    BINDINGS: ClassVar = [
        Binding("p", "act('queue.pause')", "Pause"),
        Binding("u", "act('queue.resume')", "Resume"),
    ]
    app: Session

    class QueueChosen(Message):
        """The jobs of a queue are to be shown."""

        def __init__(self, queue: str) -> None:
            super().__init__()
            self.queue = queue

    def __init__(self) -> None:
        super().__init__(id="queues")
        self.grid: Grid[QueueView] = Grid(QUEUE_COLUMNS, _cells, "queue-grid")

    def compose(self) -> ComposeResult:
        yield self.grid

    def take(self, queues: list[QueueView]) -> None:
        self.grid.show({queue["name"]: queue for queue in queues})

    @on(Grid.RowOpened)
    def _opened(self, event: Grid.RowOpened) -> None:
        self.post_message(self.QueueChosen(str(event.key)))

    def action_act(self, action: str) -> None:
        if self.grid.key is not None:
            self.app.confirm(action, [self.grid.key], [])


def _cells(queue: QueueView) -> Sequence[str]:
    bound = "-" if queue["max_running"] is None else str(queue["max_running"])
    counts = (str(queue["running"]), str(queue["queued"]), str(queue["waiting"]), str(queue["held"]))
    return (queue["name"], queue["class"], state_of(queue), *counts, bound)
