"""`stoker doctor`: what is wrong with a state and its host, and the next command for each finding.

Owns how findings are printed, and the exit status. `ops.doctor` makes the checks, beside a running daemon or without
one.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from stoker import paths
from stoker.cli.kit import render, values
from stoker.cli.kit.connection import state_dir
from stoker.cli.kit.parser import JSON, STATE_DIR, Command, Given, Option
from stoker.cli.kit.parser import path as path_of
from stoker.cli.kit.progress import QUIET, Progress
from stoker.core.errors import EX_DATAERR, UsageError
from stoker.core.units import counted

if TYPE_CHECKING:
    from stoker.core.daemon_views import CheckView, DoctorView
    from stoker.ops.doctor.examination import Host

COLOURS = {
    "error": render.RED,
    "warning": render.YELLOW,
    "note": render.CYAN,
    "ok": render.GREEN,
    "not made": render.DIM,
}
RESULT_WIDTH = 8
NARROWEST = 40
PROBE_MS = 60_000
MOST_SHOWN = 5  # findings of one check, unless --verbose asks for more


@Command(
    options=(
        STATE_DIR,
        Option(
            "--config", "FILE", "the settings file of the daemon (default: see `stoker config path`)", convert=path_of
        ),
        Option("--verbose", None, "list the checks that found nothing, too, and those that were not made"),
        Option("--probe", None, "start a tiny job for each queue of a cluster, and look at the nodes through it"),
        values.duration_option("--timeout", "with --probe: how long to wait for these jobs (default: 1m)"),
        Option("--repair", None, "say what can be repaired safely; the daemon must not run"),
        Option("--yes", None, "with --repair: do it"),
        Option("--reason", "TEXT", "why, for the log of changes"),
        QUIET,
        JSON,
    ),
    examples=(
        "stoker doctor",
        "stoker doctor --verbose",
        "stoker doctor --state-dir /var/lib/stoker --json",
        "stoker doctor --probe --timeout 10m",
        "stoker doctor --repair --yes --reason 'after the disk failed'",
    ),
)
def doctor(given: Given) -> int:
    """Works beside a running daemon, without one, and on a damaged or missing database. Each finding is an error
    (something is lost, or the daemon refuses it), a warning (it will be) or a note, and says the next command. Exit
    status 0 without errors and warnings, 1 with warnings, 65 with errors. Without --repair nothing is changed. A repair
    makes indexes, triggers and counts again, and moves files aside that belong to nothing; a backup of the database as
    it was and the moved files are kept in before-repair-TIME in the state directory."""
    if given["yes"] and not given["repair"]:
        raise UsageError("--yes needs --repair", hint="stoker doctor --repair")
    if given["probe"] and given["repair"]:
        raise UsageError("--probe cannot be used with --repair", hint="stoker doctor --probe")
    if given["timeout_ms"] is not None and not given["probe"]:
        raise UsageError("--timeout needs --probe", hint="stoker doctor --probe --timeout 10m")
    if given["probe"]:
        _end_as_by_ctrl_c()
    with Progress(given) as progress:
        report = _report(given, progress.show)
    _name_state(report)
    if given["json"]:
        render.json_document(report)
    else:
        _print(report, verbose=given["verbose"])
        _print_repairs(report, repaired=given["yes"])
    if given["repair"] and not given["yes"] and report["repairs"]:
        render.flush()
        raise UsageError("nothing was repaired", hint="--yes does it")
    return EX_DATAERR if report["errors"] else 1 if report["warnings"] else 0


def _end_as_by_ctrl_c() -> None:
    """A job of a probe is removed however the command ends."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as of nohup
            signal.signal(number, signal.default_int_handler)


def _report(given: Given, show: Callable[[str, int, int], None]) -> DoctorView:
    from stoker.ops.doctor import repairs  # noqa: PLC0415 - SQLite and msgspec: completions load this module
    from stoker.ops.doctor.run import run  # noqa: PLC0415 - as above

    root, host = state_dir(given), _host(given)
    if not given["repair"]:
        return run(root, host, show)
    if not given["yes"]:
        return repairs.preview(root, host, show)
    return repairs.carry_out(root, host, repairs.Person(os.getuid(), given["reason"]), show)


def _name_state(report: DoctorView) -> None:
    for check in report["checks"]:
        for finding in check["findings"]:
            root = report["state_dir"]
            finding["remedy"] = paths.with_state_dir(finding["remedy"], root, os.environ, os.getuid())


def _print_repairs(report: DoctorView, *, repaired: bool) -> None:
    if report["repairs"]:
        render.line(render.paint("repairs", render.BOLD))
    for repair in report["repairs"]:
        _print_line("done" if repaired else "possible", ": ".join((repair["check"], *repair["what"])))
    if report["kept_in"] is not None:
        _print_line("", f"the database as it was, and the moved files: {report['kept_in']}")


def _host(given: Given) -> Host:
    from stoker.ops.doctor.examination import Host  # noqa: PLC0415 - as above

    socket = paths.first_within_reach(paths.socket_paths(given["socket"], os.environ, os.getuid()), os.path.exists)
    config = None if given["config"] is None else Path(given["config"]).absolute()
    probe_ms = given["timeout_ms"] or PROBE_MS if given["probe"] else None
    return Host(os.environ, config, Path(socket), probe_ms=probe_ms)


def _print(report: DoctorView, *, verbose: bool) -> None:
    for group, checks in groupby(report["checks"], lambda check: check["group"]):
        shown = [check for check in checks if check["findings"] or verbose]
        if shown:
            render.line(render.paint(group, render.BOLD))
            _print_group(shown, verbose=verbose)
    render.line(_summary(report))


def _print_group(checks: Sequence[CheckView], *, verbose: bool) -> None:
    for check in checks:
        if check["why_not"] is not None:
            _print_line("not made", f"{check['name']}: {check['why_not']}")
        elif not check["findings"]:
            _print_line("ok", f"{check['name']}: {check['meaning']}")
        shown = check["findings"] if verbose else check["findings"][:MOST_SHOWN]
        for remedy, findings in groupby(shown, lambda finding: finding["remedy"]):
            for finding in findings:
                _print_line(finding["severity"], f"{check['name']}: {finding['message']}")
            _print_line("", f"→ {remedy}")
        if more := check["more"] + len(check["findings"]) - len(shown):
            _print_line("", f"{check['name']}: {more} more of this kind")


def _print_line(result: str, text: str) -> None:
    """The result, then the text, continued below itself where the terminal is narrow."""
    columns = max(NARROWEST, render.terminal_size()[0] - RESULT_WIDTH - 4)
    first, *others = render.wrapped(render.visible(text), columns)
    render.line(f"  {render.paint(result.ljust(RESULT_WIDTH), COLOURS.get(result, ''))}  {first}")
    for other in others:
        render.line(" " * (RESULT_WIDTH + 4) + other)


def _summary(report: DoctorView) -> str:
    """`42 of 47 checks found nothing, 2 found 1 warning and 3 notes, 3 were not made`: the sum of these is 47."""
    results = [check["result"] for check in report["checks"]]
    numbers = [counted(report[f"{kind}s"], kind) for kind in ("error", "warning", "note") if report[f"{kind}s"]]  # type: ignore[literal-required]
    parts = [f"{results.count('ok')} of {counted(len(results), 'check')} found nothing"]
    if found := results.count("found"):
        parts.append(f"{found} found {' and '.join(numbers)}")
    if not_made := results.count("not made"):
        parts.append(f"{not_made} {'was' if not_made == 1 else 'were'} not made (--verbose says why)")
    return f"{report['state_dir']}: {', '.join(parts)}"
