"""A C program built as a workflow, edited, and built again with `--reuse latest`: only what is behind an edit runs.

Owns the small project, with a header that two files include, and its flow. Real compiler, real files.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import DaemonProcess
from tests.support.facts import until
from tests.support.flows import flow_end, job_of, step_states, workflow_view
from tests.support.work import running

if TYPE_CHECKING:
    import stoker

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="a C compiler is wanted")

FLOW = """
name = "calc"
[defaults]
env = { LIMIT = "100" }
[steps.prepare]
command = "mkdir"
args = ["-p", "build"]
produces = ["build"]
[steps.compile]
needs = ["prepare"]
each = ["lexer", "parser", "main"]
command = "cc"
args = ["-c", "src/{{item}}.c", "-o", "build/{{item}}.o"]
sources = ["src/{{item}}.c", "src/*.h"]
produces = ["build/{{item}}.o"]
[steps.link]
needs = ["compile"]
command = "sh"
args = ["-c", "cc build/*.o -o build/calc"]
sources = ["build/*.o"]
produces = ["build/calc"]
[steps.test]
needs = ["link"]
command = "sh"
args = ["-c", "test $(build/calc) = 42"]
sources = ["build/calc"]
"""
SOURCES = {
    "calc.h": "int lex(void);\nint parse(int);\n",
    "lexer.c": '#include "calc.h"\nint lex(void) { return 40; }\n',
    "parser.c": '#include "calc.h"\nint parse(int a) { return a + 2; }\n',
    "main.c": '#include <stdio.h>\n#include "calc.h"\nint main(void) { printf("%d\\n", parse(lex())); return 0; }\n',
}
COMPILED = {"compile[lexer]", "compile[main]", "compile[parser]"}
ALL = {"prepare", "link", "test"} | COMPILED


class Project:
    """The project on the disk, which a daemon builds."""

    def __init__(self, daemon: DaemonProcess, root: Path) -> None:
        self.daemon, self.root = daemon, root
        (root / "src").mkdir()
        for name, text in SOURCES.items():
            (root / "src" / name).write_text(text)
        (root / "build.toml").write_text(FLOW)

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.root / name
        path.write_text(path.read_text().replace(old, new))

    def submit(self, *options: str) -> subprocess.CompletedProcess[str]:
        return self.daemon.cli("workflow", "submit", "--reuse", "latest", *options, "build.toml", cwd=self.root)

    def planned(self) -> dict[str, str]:
        """The steps that would run, and why."""
        steps = json.loads(self.submit("--dry-run", "--json").stdout)["reuse"]["steps"]
        return {one["step"]: one["why"] for one in steps if not one["reused"]}

    def built(self) -> set[str]:
        """The steps that ran in a build that succeeds."""
        done = self.submit("--wait")
        assert done.returncode == 0, done.stderr
        with self.daemon.client() as client:
            return {one["name"] for one in workflow_view(client, int(done.stdout))["steps"] if one["attempts"]}


def link_has_a_worker(client: stoker.Client, flow: int) -> int:
    """The job of the step `link`, once it has a worker: a kill before that may end it as orphaned."""
    until(lambda: step_states(client, flow)["link"] == "running", why="the start of the step link")
    job = job_of(client, flow, "link")
    running(client, job)
    return job


@pytest.fixture
def project(daemon: DaemonProcess, tmp_path: Path) -> Project:
    return Project(daemon, tmp_path)


def test_build_when_it_is_edited_then_exactly_the_steps_behind_the_edit_run(project: Project) -> None:
    assert project.built() == ALL
    assert project.built() == set()

    project.edit("build.toml", "[steps.link]", "# how to link\n[steps.link]")
    assert project.planned() == {}

    project.edit("src/lexer.c", "40", "20 + 20")
    assert project.planned() == {
        "compile[lexer]": "source src/lexer.c changed",
        "link": "its need compile[lexer] runs",
        "test": "its need link runs",
    }
    assert project.built() == {"compile[lexer]", "link", "test"}

    project.edit("src/calc.h", "int lex(void);", "int lex(void); /* reads */")
    assert project.built() == COMPILED | {"link", "test"}

    (project.root / "build" / "calc").unlink()
    assert project.planned()["link"] == "product build/calc is gone"
    assert project.built() == {"link", "test"}

    project.edit("build.toml", 'LIMIT = "100"', 'LIMIT = "200"')
    assert set(project.planned()) == ALL
    assert project.planned()["prepare"] == "env LIMIT changed"


def test_build_when_a_step_makes_no_product_then_it_fails_with_the_name(project: Project) -> None:
    project.edit("build.toml", 'produces = ["build/calc"]', 'produces = ["build/calc", "build/calc.map"]')

    done = project.submit("--wait")

    assert done.returncode == 1
    with project.daemon.client() as client:
        steps = {one["name"]: one for one in workflow_view(client, int(done.stdout))["steps"]}
        why = client.why(steps["link"]["job"])["message"]
    assert (steps["link"]["reason"], steps["test"]["state"]) == ("output", "skipped")
    assert f"produces: build/calc.map: no such file in {project.root}" in why


def test_build_when_the_daemon_is_killed_then_the_next_build_has_what_was_done(project: Project) -> None:
    project.edit("build.toml", "[steps.link]", "[steps.link]\nsurvive = true")
    project.edit("build.toml", '"cc build/*.o', '"while test -e wait; do sleep 0.05; done; cc build/*.o')
    (project.root / "wait").touch()
    flow = int(project.submit().stdout)
    with project.daemon.client() as client:
        link_has_a_worker(client, flow)

    project.daemon.kill_and_start()
    (project.root / "wait").unlink()

    with project.daemon.client() as client:
        assert flow_end(client, flow) == "succeeded"
    assert project.built() == set()


def test_build_when_a_step_ends_while_no_daemon_runs_then_its_files_are_looked_at(project: Project) -> None:
    project.edit("build.toml", '"cc build/*.o', '"while test -e wait; do sleep 0.05; done; cc build/*.o')
    project.edit("build.toml", 'produces = ["build/calc"]', 'produces = ["build/calc", "build/calc.map"]')
    (project.root / "wait").touch()
    flow = int(project.submit().stdout)
    with project.daemon.client() as client:
        link = link_has_a_worker(client, flow)

    project.daemon.kill9()
    (project.root / "wait").unlink()
    until((project.root / "build" / "calc").exists, why="the end of the worker")
    project.daemon.start()

    with project.daemon.client() as client:
        assert flow_end(client, flow) == "failed"
        assert "build/calc.map: no such file" in client.why(link)["message"]


def test_resume_when_a_source_of_a_verified_step_changed_then_it_runs_again(project: Project) -> None:
    project.edit("build.toml", 'name = "calc"', 'name = "calc"\nverify = true')
    project.edit("build.toml", "= 42", "= 43")
    flow = int(project.submit().stdout)
    with project.daemon.client() as client:
        assert flow_end(client, flow) == "failed"
        project.edit("src/parser.c", "a + 2", "a + 3")

        client.call("workflow.resume", {"id": flow})

        assert flow_end(client, flow) == "succeeded"
        attempts = {one["name"]: one["attempts"] for one in workflow_view(client, flow)["steps"]}
    assert {name for name, count in attempts.items() if count > 1} == {"compile[parser]", "link", "test"}
