"""Leaves of a delegated cgroup v2: found, divided, killed, frozen, removed.

Needs a writable cgroup v2. Without its controllers, the tests check that limits are not claimed.
"""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stoker.core.errors import ConfigInvalid
from stoker.core.job.limits import Limits
from stoker.process.cgroup import Cgroups, Leaf, find_root, is_delegated, read_mounts
from tests.support.apart import run_apart, spare_descriptors
from tests.support.facts import DEADLINE_S, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MOUNTINFO = """\
24 1 0:22 / /proc rw,nosuid - proc proc rw
30 24 0:26 / /sys/fs/cgroup/memory rw,nosuid shared:9 - cgroup cgroup rw,memory
31 24 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:10 master:2 - cgroup2 cgroup2 rw,nsdelegate
"""


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def put(leaf: Leaf, process: subprocess.Popen[bytes]) -> None:
    (leaf.path / "cgroup.procs").write_text(str(process.pid))


def test_mounts_when_read_then_only_version_2_is_named() -> None:
    assert list(read_mounts(MOUNTINFO)) == [Path("/sys/fs/cgroup/unified")]


def test_root_when_switched_off_then_no_cgroup_is_used() -> None:
    assert find_root("off") is None


def test_root_when_set_to_a_cgroup_then_it_is_that(cgroup_root: Path) -> None:
    assert find_root(str(cgroup_root)) == cgroup_root


def test_root_when_set_to_any_directory_then_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="not a cgroup v2"):
        find_root(str(tmp_path))


def test_delegated_when_the_mark_is_missing_then_it_is_not_ours(cgroup_root: Path) -> None:
    assert not is_delegated(cgroup_root)


def test_delegated_when_marked_as_systemd_does_then_it_is_ours(cgroup_root: Path) -> None:
    try:
        os.setxattr(cgroup_root, "trusted.delegate", b"1")
    except OSError as error:
        pytest.skip(f"cannot mark a cgroup here: {error}")

    assert is_delegated(cgroup_root)


def test_prepare_when_processes_are_in_the_root_then_no_controller_is_enabled(
    cgroup_root: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    (cgroup_root / "cgroup.procs").write_text(str(sleeper.pid))
    cgroups = Cgroups(cgroup_root)

    cgroups.prepare()

    assert (cgroup_root / "cgroup.procs").read_text().split() == [str(sleeper.pid)]
    assert cgroups.controllers == frozenset()


def test_make_when_controllers_are_missing_then_no_limit_is_claimed(cgroup_root: Path) -> None:
    cgroups = Cgroups(cgroup_root)
    cgroups.prepare()

    leaf = cgroups.make("7.1.ab", Limits(memory_bytes=64 << 20, processes=10, cpu_seconds=5))

    enforced = {"memory_bytes": "memory", "processes": "pids"}
    assert leaf.in_force == {name for name, controller in enforced.items() if controller in cgroups.controllers}
    assert cgroups.run_ids() == ["7.1.ab"]
    assert cgroups.leaf("7.1.ab").path == leaf.path


def test_leaf_when_killed_then_all_in_it_end(cgroup_root: Path, sleeper: subprocess.Popen[bytes]) -> None:
    leaf = Cgroups(cgroup_root).make("7.1.ab", Limits())
    put(leaf, sleeper)
    populated = leaf.populated

    leaf.kill()

    assert sleeper.wait(DEADLINE_S) == -9
    assert populated
    assert until(lambda: not leaf.populated)


def test_leaf_when_frozen_and_thawed_then_its_processes_stand_still_and_go_on(
    cgroup_root: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    leaf = Cgroups(cgroup_root).make("7.1.ab", Limits())
    put(leaf, sleeper)

    leaf.freeze()
    frozen = until(lambda: "frozen 1" in (leaf.path / "cgroup.events").read_text())
    leaf.thaw()

    assert frozen
    assert until(lambda: "frozen 0" in (leaf.path / "cgroup.events").read_text())
    assert sleeper.poll() is None


def test_leaf_when_removed_then_cgroups_inside_go_too_and_it_may_be_repeated(cgroup_root: Path) -> None:
    leaf = Cgroups(cgroup_root).make("7.1.ab", Limits())
    (leaf.path / "inner" / "most").mkdir(parents=True)

    leaf.remove_tree()
    leaf.remove_tree()

    assert not leaf.path.exists()
    assert not leaf.populated


def test_leaf_when_no_descriptor_is_left_then_it_is_not_taken_for_empty_or_removed(
    cgroup_root: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    leaf = Cgroups(cgroup_root).make("7.1.ab", Limits())
    put(leaf, sleeper)

    errors = run_apart(ask_without_descriptors, str(leaf.path))

    assert errors == {"populated": "EMFILE", "kill": "EMFILE", "remove": "EMFILE"}


def ask_without_descriptors(path: str) -> dict[str, str | None]:
    leaf = Leaf(Path(path))
    return {
        "populated": error_without_descriptors(lambda: leaf.populated),
        "kill": error_without_descriptors(leaf.kill),
        "remove": error_without_descriptors(leaf.remove_tree),
    }


def error_without_descriptors(call: Callable[[], object]) -> str | None:
    with spare_descriptors(0):
        try:
            call()
        except OSError as error:
            return errno.errorcode[error.errno or 0]
    return None


def test_leaf_when_something_lives_in_it_then_it_is_not_removed(
    cgroup_root: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    leaf = Cgroups(cgroup_root).make("7.1.ab", Limits())
    put(leaf, sleeper)

    with pytest.raises(OSError, match="busy"):
        leaf.remove_tree()

    assert leaf.populated
