"""`stoker workflow show`: groups of steps, progress, filters, and the analysis."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.support import flows, work
from tests.support.flow_files import sent, written

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.daemon import DaemonProcess

SETTINGS = "[queues.shut]\npaused = true\n"
ITEMS = [f"i{number}" for number in range(30)]


def test_show_when_steps_are_many_then_groups_filters_and_progress_are_shown(
    shared: DaemonProcess, tmp_path: Path
) -> None:
    steps = {
        "bad": flows.step('case "$STOKER_ITEM" in i7|i9) exit 3;; esac', each=ITEMS),
        "rest": {"command": "true", "queue": "shut", "each": ITEMS},
    }
    flow = sent(shared, tmp_path, steps)
    with shared.client() as client:
        for name in (f"bad[{item}]" for item in ITEMS):
            work.end_of(client, flows.job_of(client, int(flow), name))

    whole = shared.cli("workflow", "show", flow).stdout
    failed = shared.cli("workflow", "show", flow, "--state", "failed", "--logs").stdout
    every = shared.cli("workflow", "show", flow, "--steps").stdout
    steps_of_group = shared.cli("workflow", "show", f"{flow}/bad").stdout
    group = json.loads(shared.cli("workflow", "show", f"{flow}/bad", "--json").stdout)
    unknown = shared.cli("workflow", "show", f"{flow}/bed")
    shared.cli("workflow", "cancel", flow)
    analysed = shared.cli("workflow", "show", flow, "--analyse").stdout

    rows = [line.split("  ")[0] for line in whole.partition("\nSTEP")[2].splitlines()[1:]]
    assert "progress  50% 30 of 60 steps ended" in whole
    assert rows == ["bad x30", "rest x30"]
    assert "28/30 done, 2 failed" in whole
    assert "bad[i7] bad[i9]" in whole
    assert [line.split()[0] for line in failed.splitlines() if line.startswith("bad[") and "job" not in line][:2] == [
        "bad[i7]",
        "bad[i9]",
    ]
    assert "\nbad[i7] (stoker logs " in failed
    assert every.count("\nrest[") == 30
    assert (steps_of_group.count("\nbad["), steps_of_group.count("\nrest[")) == (30, 0)
    assert [step["name"] for step in group["steps"]] == [f"bad[{item}]" for item in ITEMS]
    assert unknown.stderr.endswith("hint: did you mean bad?\n")
    assert analysed.index("failure") < analysed.index("workflow  ")


def test_show_when_a_list_came_at_run_time_then_its_steps_stand_with_their_group(
    shared: DaemonProcess, tmp_path: Path
) -> None:
    steps = {
        "list": flows.step("""echo 'files=["a", "b"]' >> $STOKER_OUTPUT"""),
        "compile": flows.step("true", each={"step": "list", "output": "files"}),
        "last": {**flows.step("true", "compile"), "if": "needs.compile.size() == 2"},
    }
    source = written(tmp_path, json.dumps({**flows.flow(steps), "name": "later"}), "flow.json")

    planned = shared.cli("workflow", "submit", "--dry-run", source).stdout
    flow = shared.cli("workflow", "submit", "--wait", source).stdout.strip()
    shown = shared.cli("workflow", "show", flow).stdout.partition("\nSTEP")[2].splitlines()[1:]

    assert [line.split()[0] for line in shown] == ["list", "compile", "compile[a]", "compile[b]", "last"]
    assert shown[-1].endswith("  if needs.compile.size() == 2")
    assert "  compile (for each of list.files)\n" in planned
    assert planned.endswith("  last (if needs.compile.size() == 2)\n")


def test_show_when_an_earlier_run_succeeded_then_the_time_left_is_estimated(
    shared: DaemonProcess, tmp_path: Path
) -> None:
    first = sent(shared, tmp_path, {"a": flows.step("true")})
    shared.cli("workflow", "wait", first)
    second = sent(shared, tmp_path, {"a": {"command": "true", "queue": "shut"}})

    shown = json.loads(shared.cli("workflow", "show", second, "--json").stdout)
    text = shared.cli("workflow", "show", second).stdout
    before = json.loads(shared.cli("workflow", "show", first, "--json").stdout)
    shared.cli("workflow", "cancel", second)

    took = before["finished_at"] - before["created_at"]
    assert shown["earlier_runs"] == {"count": 1, "median_ms": took}
    assert ": the last run of this name took " in text
    assert before["earlier_runs"] is None
