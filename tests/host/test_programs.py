"""A look at a command: a missing program differs from one that cannot be seen now."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from stoker.files import user_name
from stoker.host import programs
from tests.support.apart import run_apart
from tests.support.strace import why_not

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
@pytest.mark.parametrize("command", ["tool", "./tool"])
def test_problem_when_the_disk_of_a_program_fails_then_it_is_not_called_missing(tmp_path: Path, command: str) -> None:
    tool = tmp_path / "tool"
    tool.touch(mode=0o755)
    fault = "access,faccessat,faccessat2,newfstatat,stat:error=EIO"

    answer = run_apart(programs.problem, command, str(tmp_path), f"/bin:{tmp_path}", fault=fault, path=tool)

    assert answer[0] == "command"
    assert "Input/output error" in answer[1]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_problem_when_a_directory_above_is_closed_then_the_user_is_named(tmp_path: Path) -> None:
    here = tmp_path / "private" / "here"
    here.mkdir(parents=True)
    here.parent.chmod(0o700)
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setuid(65534)
        os.write(theirs, repr(programs.problem("true", str(here), "/bin")).encode())
        os._exit(0)
    os.waitpid(pid, 0)

    answer = os.read(ours, 4096).decode()
    os.close(ours)
    os.close(theirs)

    assert f"working_dir: {here} may not be entered by {user_name(65534)}" in answer
