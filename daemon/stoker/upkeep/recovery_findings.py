"""The findings of a recovery about open runs, and the plan that follows from them.

Decides which outcome logs may be removed: only those whose outcomes are all committed.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from stoker.core.job.recovery import Finding, RecoveryPlan
from stoker.engine.memory import OpenRun
from stoker.process.client import LauncherClient
from stoker.process.evidence import LauncherFacts
from stoker.process.messages import Exited


class RecoveryFindings(Struct, frozen=True):
    """The runs, the facts about them, and the valid plan that follows. `answered`: launchers that answered."""

    plan: RecoveryPlan
    runs: Sequence[OpenRun]
    findings: Mapping[str, Finding]
    launcher_facts: LauncherFacts
    answered: Mapping[str, LauncherClient]
    outcome_logs: Sequence[Path]

    def committed_logs(
        self, logs: Iterable[tuple[Path, Sequence[Exited]]], alive: Container[str], open_run: Callable[[str], object]
    ) -> list[Path]:
        """The outcome logs that cannot grow, and of which all outcomes are committed. `logs`: as they are now.

        Connected, empty and dead launchers write nothing; one that hung up may write the end of a run it just listed.
        """
        written = self.launcher_facts.written
        whole = [(path, ends) for path, ends in logs if path in self.outcome_logs and self._is_whole(path, alive)]
        return [path for path, ends in whole if all(end.run_id in written and not open_run(end.run_id) for end in ends)]

    def _is_whole(self, path: Path, alive: Container[str]) -> bool:
        client = self.answered.get(path.stem)
        return path.stem not in alive or (client is not None and (client.left_empty or not client.lost))
