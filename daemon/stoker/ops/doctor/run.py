"""`stoker doctor`: the table of all checks, and one run of them.

To add a check, write a function that yields what it finds, and a row in the CHECKS of its module.
Invariant: a check that fails itself is a finding, and the others are still made.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from stoker.core.errors import StokerError
from stoker.ops.doctor import database, files, host
from stoker.ops.doctor.examination import Check, Examination, Gravity, Host, Progress, Symptom, examining
from stoker.store.directory import StateDirectory

if TYPE_CHECKING:
    from stoker.core.daemon_views import CheckView, DoctorView, FindingView

CHECKS = (*database.CHECKS, *files.CHECKS, *host.CHECKS)
MOST = 20  # findings of one check that are kept; the others are counted


def run(root: str, where: Host, progress: Progress) -> DoctorView:
    """Make every check of a state, whose daemon may run. Raises StateRefused if there is no such directory."""
    with examining(StateDirectory(Path(root)), where, progress) as examination:
        return examined(examination)


def examined(examination: Examination) -> DoctorView:
    made = [_made(check, examination) for check in CHECKS]
    numbers = sum((counts for _, counts in made), Counter[Gravity]())
    return {
        "ok": not numbers[Gravity.ERROR] and not numbers[Gravity.WARNING],
        "state_dir": str(examination.directory.root),
        "daemon_runs": examination.daemon is not None,
        "errors": numbers[Gravity.ERROR],
        "warnings": numbers[Gravity.WARNING],
        "notes": numbers[Gravity.NOTE],
        "checks": [view for view, _ in made],
        "repairs": [],
    }


def _made(check: Check, examination: Examination) -> tuple[CheckView, Counter[Gravity]]:
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
    return view, Counter(finding.severity or check.severity for finding in findings)


def _find(check: Check, examination: Examination) -> list[Symptom]:
    """What was found before a check failed is kept."""
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
