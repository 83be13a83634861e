"""`stoker workflow import --from dagman`: each command of a DAG file, and the form of submit descriptions."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from stoker.cli.imports.dagman import read_dag
from stoker.cli.imports.submit_description import read_description, run_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.imports.conftest import Imported

    Import = Callable[..., Imported]

DIAMOND = """# diamond.dag
JOB  A  a.sub
Job  B  b.sub
JOB  C  b.sub  DIR sub
JOB  D {
  executable = /bin/echo
  arguments  = "'all done' ""really"" it''s"
  environment = "A='x y' B=2"
}
PARENT A CHILD B C
PARENT B C CHILD D
VARS B part="left \\"half\\"" n="1"
VARS C part="right" n="2"
RETRY C 3 UNLESS-EXIT 2
PRIORITY D 5
"""
A_SUB = "executable = a.sh\noutput = a.out\nlog = a.log\nqueue\n"
B_SUB = """executable = /bin/echo
arguments = $(part) $(n:3) $(more)
more = $(part)-more
max_retries = 1
request_memory = 1G
queue
"""


@pytest.fixture
def diamond(imported: Import, tmp_path: Path) -> Imported:
    (tmp_path / "sub").mkdir()
    for path, text in (("a.sub", A_SUB), ("b.sub", B_SUB), ("sub/b.sub", B_SUB)):
        (tmp_path / path).write_text(text)
    return imported("dagman", DIAMOND, name="diamond.dag")


def test_dag_when_it_is_a_diamond_then_nodes_and_needs_are_kept(diamond: Imported) -> None:
    assert diamond.flow["name"] == "diamond"
    assert diamond.needs == {"A": [], "B": ["A"], "C": ["A"], "D": ["B", "C"]}


def test_dag_when_descriptions_have_macros_then_each_node_has_its_own(diamond: Imported, tmp_path: Path) -> None:
    steps = diamond.steps

    assert steps["A"]["args"] == ["-c", f"exec {tmp_path}/a.sh > a.out"]
    assert steps["B"] == {
        "needs": ["A"],
        "command": "/bin/echo",
        "args": ["left", '"half"', "1", "left", '"half"-more'],
        "max_attempts": 2,
    }
    assert steps["C"]["args"] == ["right", "2", "right-more"]
    assert (steps["C"]["working_dir"], steps["C"]["max_attempts"]) == (f"{tmp_path}/sub", 8)
    assert steps["C"]["no_retry_exit_codes"] == [2]
    assert steps["D"] == {
        "needs": ["B", "C"],
        "command": "/bin/echo",
        "args": ["all done", '"really"', "its"],
        "env": {"A": "x y", "B": "2"},
        "priority": 5,
    }


def test_dag_when_something_is_left_out_then_file_and_line_are_named(diamond: Imported) -> None:
    assert diamond.err == (
        "stoker: b.sub:5: request_memory is not mapped\nstoker: sub/b.sub:5: request_memory is not mapped\n"
    )


@pytest.mark.parametrize(("job", "post", "status"), [("true", "", 0), ("false", "", 1), ("false", "ok", 0)])
def test_node_when_it_has_scripts_then_the_last_one_decides(
    imported: Import, tmp_path: Path, job: str, post: str, status: int
) -> None:
    for name, text in {"pre": 'echo "pre $1"', "post": f'echo "post $1 $2"; [ $1 = 0 ] || [ "{post}" ]'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    dag = f"JOB A {{\nexecutable = /bin/{job}\n}}\nSCRIPT PRE A pre $JOB\nSCRIPT POST A post $RETURN $RETRY\n"
    step = imported("dagman", dag).steps["A"]

    done = subprocess.run(
        [step["command"], *step["args"]],
        cwd=tmp_path,
        env={"PATH": "/bin:/usr/bin", "STOKER_ATTEMPT": "2"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == status
    assert done.stdout == f"pre A\npost {int(job == 'false')} 1\n"


def test_dag_when_nodes_have_nothing_to_run_then_their_needs_are_passed_on(imported: Import) -> None:
    inline = "{\nexecutable = /bin/true\n}\n"
    text = f"JOB a {inline}JOB b x.sub NOOP\nJOB c x.sub DONE\nJOB d {inline}PARENT a CHILD b c\nPARENT b c CHILD d\n"

    assert imported("dagman", text).needs == {"a": [], "d": ["a"]}


def test_dag_when_it_has_commands_for_the_whole_then_the_flow_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inline = "{\nexecutable = /bin/true\n}\n"
    text = (
        f"JOB a {inline}FINAL z {inline}ABORT-DAG-ON a 3 RETURN 1\nCATEGORY a big\nMAXJOBS big 2\n"
        "SUBDAG EXTERNAL inner sub/inner.dag\nSPLICE more more.dag\nPARENT a CHILD inner more\n"
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text(text)

    draft = read_dag("file")

    assert draft.flow()["finally"] == {"z": {"command": "/bin/true", "critical": True}}
    assert draft.flow()["steps"] == {
        "a": {"command": "/bin/true", "abort_on": [3], "resources": {"big": 1}},
        "inner": {"needs": ["a"], "workflow": "sub/inner.toml"},
        "more": {"needs": ["a"], "workflow": "more.toml"},
    }
    assert [str(remark) for remark in draft.remarks] == [
        "file:7: ABORT-DAG-ON a … RETURN is not mapped: the workflow has failed",
        "file:9: before the first submit: stoker resource set big 2",
        "file:10: import this file, too: stoker workflow import --from dagman sub/inner.dag -o sub/inner.toml",
        "file:11: import this file, too: stoker workflow import --from dagman more.dag -o more.toml",
    ]


def test_dag_when_lines_are_wrong_then_each_is_named(imported: Import) -> None:
    text = "JOB\nJOB A x\nPARENT A CHILD Z\nRETRY A x\nPARENT A B\nJOB A y\nINCLUDE file\n"

    done = imported("dagman", text)

    assert (done.status, done.out) == (65, "")
    assert done.err == (
        "stoker: file has 6 mistakes\n  file:1: JOB NAME FILE\n"
        "  file:3: Z: no node with this name stands before this line\n  file:4: 'x' is not a whole number\n"
        "  file:5: PARENT NAME… CHILD NAME…\n  file:6: A: a node of this name stands in an earlier line\n"
        "  file:7: file is included twice\n"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("JOB A none.sub\n", "cannot read none.sub: No such file"),
        ("JOB A {\narguments = x\n}\n", "file: no executable, for the job A"),
        ("# nothing\n", "file: no node has anything to run"),
    ],
)
def test_dag_when_no_job_can_be_made_then_the_reason_is_named(imported: Import, text: str, message: str) -> None:
    done = imported("dagman", text)

    assert (done.status != 0, done.out) == (True, "")
    assert message in done.err


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("a  b\tc", ["a", "b", "c"]),
        ('say \\"hi\\"', ["say", '"hi"']),
        ('"one \'two three\' ""four"""', ["one", "two three", '"four"']),
        ("\"'it''s one'\"", ["it's one"]),
        ("\"'' x\"", ["", "x"]),
        ('""', []),
    ],
)
def test_arguments_when_they_are_in_either_form_then_words_are_separated(value: str, words: list[str]) -> None:
    description = read_description([(1, "executable = /bin/echo"), (2, f"arguments = {value}")])

    run = run_of(description, {}, "/")

    assert run is not None
    assert run.argv == ["/bin/echo", *words]


def test_macro_when_it_refers_to_itself_then_it_is_named() -> None:
    description = read_description([(1, "executable = $(a)"), (2, "a = $(b)x"), (3, "b = $(a)y")])

    run_of(description, {}, "/")

    assert "'$(a)' refers to itself" in [text for _, text in description.problems]
