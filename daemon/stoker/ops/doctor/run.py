"""`stoker doctor`: the table of all checks, and one run of them.

To add a check, write a function that yields what it finds, and a row in the CHECKS of its module. Of a large state some
checks are made in a process beside this one: two cores take half the time.
Invariant: a check that fails itself is a finding, and the others are still made.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack, suppress
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stoker.core.errors import StokerError
from stoker.ops.doctor import cluster, cluster_probe, database, files, host
from stoker.ops.doctor.examination import Check, Examination, Gravity, Host, Progress, Symptom, examining
from stoker.store.directory import StateDirectory

if TYPE_CHECKING:
    from stoker.core.daemon_views import CheckView, DoctorView, FindingView

CHECKS = (*database.CHECKS, *files.CHECKS, *host.CHECKS, *cluster.CHECKS)
MOST = 20  # findings of one check that are kept; the others are counted
# The names of checks that together take about as long as all others.
BESIDE = {"journal lines", "change chain", "pages", "journaled"}
LARGE_BYTES = 50_000_000  # of a database: a second process takes a third of a second to start
# The host has no room for a process or its semaphores (OSError); no thread can start, or the process was killed
# (RuntimeError: BrokenProcessPool is one).
NO_PROCESS = (OSError, RuntimeError)


class CheckResult(NamedTuple):
    """A check that was made, and how many findings of each gravity it has."""

    view: CheckView
    numbers: Counter[Gravity]


def run(root: str, where: Host, progress: Progress) -> DoctorView:
    """Make every check of a state, whose daemon may run. Raises StateRefused if there is no such directory."""
    directory = StateDirectory(Path(root))
    if _is_large(directory):
        return _run_in_two(directory, where, progress)
    with examining(directory, where, progress) as examination:
        return examined(examination)


def examined(examination: Examination) -> DoctorView:
    return _report(examination, [_check_one(check, examination) for check in _checks(examination.host)])


def _checks(where: Host) -> Sequence[Check]:
    """All checks that are asked for."""
    return CHECKS if where.probe_ms is None else (*CHECKS, *cluster_probe.PROBES)


def _is_large(directory: StateDirectory) -> bool:
    with suppress(OSError):
        return directory.database.stat().st_size > LARGE_BYTES
    return False


def _run_in_two(directory: StateDirectory, where: Host, progress: Progress) -> DoctorView:
    """The second process is a fresh one, since SQLite does not survive a fork. Without it we do its work."""
    with ExitStack() as stack:
        further = _submit_beside(stack, directory.root, where)
        with examining(directory, where, progress) as examination:
            results = [_check_one(check, examination) for check in _checks(where) if check.name not in BESIDE]
            examination.progress("the rest", 0, 0)
            try:
                results += further.result()
            except NO_PROCESS:
                results += [_check_one(check, examination) for check in CHECKS if check.name in BESIDE]
            return _report(examination, results)


def _submit_beside(stack: ExitStack, root: Path, where: Host) -> Future[list[CheckResult]]:
    """The checks of the second process; they have failed if the host lacks what it takes to start one."""
    try:
        pool = ProcessPoolExecutor(1, get_context("spawn"), signal.signal, (signal.SIGINT, signal.SIG_DFL))
        return stack.enter_context(pool).submit(_check_beside, root, where._replace(environ=dict(where.environ)))
    except NO_PROCESS as error:
        failed: Future[list[CheckResult]] = Future()
        failed.set_exception(error)
        return failed


def _check_beside(root: Path, where: Host) -> list[CheckResult]:
    with examining(StateDirectory(root), where, lambda *_: None) as examination:
        return [_check_one(check, examination) for check in CHECKS if check.name in BESIDE]


def _report(examination: Examination, results: Iterable[CheckResult]) -> DoctorView:
    by_name = {one.view["name"]: one for one in results}
    numbers = sum((one.numbers for one in by_name.values()), Counter[Gravity]())
    return {
        "ok": not numbers[Gravity.ERROR] and not numbers[Gravity.WARNING],
        "state_dir": str(examination.directory.root),
        "daemon_runs": examination.daemon is not None,
        "errors": numbers[Gravity.ERROR],
        "warnings": numbers[Gravity.WARNING],
        "notes": numbers[Gravity.NOTE],
        "checks": [by_name[check.name].view for check in _checks(examination.host)],
        "repairs": [],
        "kept_in": None,
    }


def _check_one(check: Check, examination: Examination) -> CheckResult:
    obstacle = examination.obstacle(check.needs, still=check.still)
    findings: list[Symptom] = []
    if obstacle is None:
        examination.progress(check.name, 0, 0)
        findings = _find(check, examination)
    view: CheckView = {
        "group": check.group,
        "name": check.name,
        "meaning": check.meaning,
        "result": "not made" if obstacle else "found" if findings else "ok",
        "why_not": obstacle,
        "findings": [_view(check, finding) for finding in findings[:MOST]],
        "more": max(0, len(findings) - MOST),
    }
    return CheckResult(view, Counter(finding.severity or check.severity for finding in findings))


def _find(check: Check, examination: Examination) -> list[Symptom]:
    """The findings of a check. If it fails itself, its earlier findings are kept."""
    symptoms: list[Symptom] = []
    try:
        symptoms.extend(Symptom(one) if isinstance(one, str) else one for one in check.find(examination))
    except StokerError as error:
        symptoms.append(Symptom(error.message, error.hint))
    except Exception as error:  # noqa: BLE001 - a damaged page can hold any value of any type, and so break any reader
        symptoms.append(Symptom(f"cannot be checked: {error}", severity=Gravity.ERROR))
    return symptoms


def _view(check: Check, finding: Symptom) -> FindingView:
    return {
        "severity": (finding.severity or check.severity).value,
        "message": finding.message,
        "remedy": finding.remedy or check.remedy,
    }
