"""The flow files in docs/examples are accepted without a warning, and end as their comments say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.daemon import DaemonProcess

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.mark.parametrize(
    ("name", "parameter", "state", "others"),
    [
        ("gatk", "bad=NA2,chr1", "succeeded", {"call[NA2,chr1]": "failed"}),
        ("ci", "branch=topic", "succeeded", {"release": "skipped"}),
        ("ci", "branch=main", "succeeded", {}),
        ("nightly", "bad=none", "succeeded", {"mail": "skipped"}),
        ("nightly", "bad=orders", "failed", {"dump[orders]": "failed", "upload": "skipped"}),
    ],
)
def test_example_when_it_is_run_then_each_step_ends_as_it_says(
    shared: DaemonProcess, name: str, parameter: str, state: str, others: dict[str, str]
) -> None:
    file = str(EXAMPLES / f"{name}.toml")

    checked = shared.cli("workflow", "lint", "--strict", file)
    done = shared.cli("workflow", "submit", "--wait", "--param", parameter, file)
    flow = json.loads(shared.cli("workflow", "show", done.stdout.strip(), "--json").stdout)

    assert (checked.returncode, checked.stderr) == (0, "")
    assert flow["state"] == state
    assert {step["name"]: step["state"] for step in flow["steps"] if step["state"] != "succeeded"} == others


def test_examples_when_listed_then_each_is_run() -> None:
    assert {file.stem for file in EXAMPLES.iterdir()} == {"gatk", "ci", "nightly"}
