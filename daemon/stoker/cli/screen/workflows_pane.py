"""The table of the newest workflows, and the steps of one of them.

Owns their columns and keys. Both are read again after a change, while they are looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.screen import Screen
from textual.widgets import Footer, Static

from stoker.cli import workflows
from stoker.cli.kit import render, step_groups
from stoker.cli.screen.actions import words
from stoker.cli.screen.details import JobScreen
from stoker.cli.screen.grid import Grid
from stoker.cli.screen.log_screen import LogScreen
from stoker.cli.screen.rows import Column, now_ms
from stoker.core.workflow.step_names import stands_for

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stoker.cli.kit.step_groups import StepGroup
    from stoker.cli.screen.session import Session
    from stoker.core.errors import StokerError
    from stoker.core.views import WorkflowDetails, WorkflowView


WORKFLOW_COLUMNS = (
    Column("ID", 7, numeric=True),
    Column("STATE", 12),
    Column("DONE", 9, numeric=True),
    Column("NOT DONE", 26, gives_way=3),
    Column("AGE", 7, numeric=True, gives_way=1),
    Column("TOOK", 7, numeric=True, gives_way=2),
    Column("NAME", 0),
)
WORKFLOWS = 200  # the newest ones


class WorkflowsPane(Vertical):
    """The newest workflows. They are read again after a change, while they are looked at."""

    BINDINGS: ClassVar = [
        Binding("c", "act('workflow.cancel')", "Cancel"),
        Binding("p", "act('workflow.pause')", "Pause"),
        Binding("u", "act('workflow.resume')", "Resume"),
    ]
    app: Session

    def __init__(self) -> None:
        super().__init__(id="workflows")
        self.grid: Grid[WorkflowView] = Grid(
            WORKFLOW_COLUMNS, lambda row: _texts(workflows.row(row, now_ms())), "workflow-grid"
        )
        self._is_old = True

    def compose(self) -> ComposeResult:
        yield self.grid

    def changed(self) -> None:
        self._is_old = True

    def tick(self) -> None:
        if self._is_old:
            self._is_old = False
            params = {"limit": WORKFLOWS}
            self.app.ask(
                lambda client: client.call("workflow.list", params, again=True)["workflows"],
                self._take,
                self.app.away_with,
            )
        self.grid.refresh()

    def _take(self, newest: list[WorkflowView]) -> None:
        self.grid.show({workflow["id"]: workflow for workflow in newest})

    @on(Grid.RowOpened)
    def _opened(self, event: Grid.RowOpened) -> None:
        self.app.push_screen(WorkflowScreen(int(event.key)))

    def action_act(self, action: str) -> None:
        if self.grid.key is not None:
            self.app.confirm(action, [self.grid.key], [self.grid.rows[self.grid.key]["name"]])


STEP_COLUMNS = (
    Column("STEP", 20),
    Column("JOB", 7, numeric=True),
    Column("STATE", 10),
    Column("WHY", 14),
    Column("TRY", 4, numeric=True, gives_way=1),
    Column("NEEDS", 20, gives_way=2),
    Column("REMARK", 0),
)


class WorkflowScreen(Screen[None]):
    """One workflow, or a group of its steps, as they are now; of many steps a row for each group, which opens."""

    DEFAULT_CSS = """
    WorkflowScreen #title {
        height: 1; text-wrap: nowrap; text-overflow: ellipsis; background: $panel; text-style: bold; padding: 0 1;
    }
    """
    BINDINGS: ClassVar = [
        Binding("l", "log", "Log"),
        Binding("escape,q", "dismiss", "Back", key_display="esc"),
    ]
    app: Session

    def __init__(self, workflow: int, group: str | None = None) -> None:
        super().__init__()
        self.is_old = False  # something was changed since it was read
        self._workflow = workflow
        self._group = group
        self.grid: Grid[StepGroup] = Grid(STEP_COLUMNS, lambda row: _texts(step_groups.cells(row)), "step-grid")

    def compose(self) -> ComposeResult:
        yield Static(Text(f"workflow {self._workflow}"), id="title")
        yield self.grid
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        self.grid.focus()
        self.load()

    def load(self) -> None:
        self.is_old = False
        self.app.ask(lambda client: client.workflow(self._workflow), self._take, self._fail)

    def _take(self, workflow: WorkflowDetails) -> None:
        if not self.is_attached:
            return
        of_group = "" if self._group is None else f", steps of {self._group}"
        title = f"workflow {self._workflow} {workflow['name']}: {workflow['state']}{of_group}"
        self.query_one("#title", Static).update(Text(render.visible(title)))
        steps = [step for step in workflow["steps"] if self._group is None or stands_for(self._group, step["name"])]
        rows = step_groups.as_shown(steps, every=self._group is not None)
        self.grid.show({row.steps[0]["job"]: row for row in rows})

    def _fail(self, error: StokerError) -> None:
        if self.is_attached:
            self.query_one("#title", Static).update(Text(words(error)))

    @on(Grid.RowOpened)
    def _opened(self, event: Grid.RowOpened) -> None:
        self._open(int(event.key), JobScreen)

    def action_log(self) -> None:
        if self.grid.key is not None:
            self._open(int(self.grid.key), lambda job: LogScreen(job, self.grid.rows[job].name))

    def _open(self, job: int, screen: Callable[[int], Screen[None]]) -> None:
        """Open the screen of a step; a group shows its steps first."""
        row = self.grid.rows[job]
        self.app.push_screen(screen(job) if len(row.steps) == 1 else WorkflowScreen(self._workflow, row.name))


def _texts(cells: Sequence[object]) -> list[str]:
    return [render.visible(str(cell)) for cell in cells]
