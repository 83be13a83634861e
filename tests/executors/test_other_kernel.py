"""`test_controllers.py` on another kernel, which has all controllers of cgroup v2."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import uml

if TYPE_CHECKING:
    from pathlib import Path

# All of them must run there: this counts the faults that fired.
TESTS = 4


@pytest.mark.timeout(300)
@pytest.mark.skipif(uml.missing() is not None, reason=str(uml.missing()))
def test_controllers_when_another_kernel_has_all_then_limits_hold_for_whole_trees(tmp_path: Path) -> None:
    booted = uml.run_tests(["-q", "--color=no", "tests/executors/test_controllers.py"], tmp_path, timeout_s=240)

    assert booted.status == 0, booted.console
    assert f"{TESTS} passed in" in booted.console, booted.console
