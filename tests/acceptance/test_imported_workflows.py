"""Files of DAGMan and GitHub Actions, imported and run: each step ends as it would have ended there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support import flows
from tests.support.work import running

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.daemon import DaemonProcess

JOB = "JOB {name} {{\nexecutable = /bin/sh\narguments = \"-c '{script}'\"\n}}\n"
DIAMOND = (
    "".join(
        JOB.format(name=name, script=script)
        for name, script in {
            "A": "echo a >> trace",
            "B": "echo b >> trace; exit 3",
            "C": "echo c >> trace",
            "D": "echo d >> trace",
        }.items()
    )
    + "PARENT A CHILD B C\nPARENT B C CHILD D\nRETRY B 1\n"
)
ACTIONS = """name: ci
on: push
jobs:
  count:
    runs-on: ubuntu-latest
    outputs: { files: "${{ steps.x.outputs.files }}" }
    steps:
      - run: echo "files=3" >> "$GITHUB_OUTPUT"
  test:
    needs: count
    runs-on: ubuntu-latest
    strategy: { matrix: { os: [linux, mac], py: [3.11, 3.12], exclude: [{ os: mac, py: 3.11 }] } }
    steps:
      - run: touch "${{ matrix.os }}-${{ matrix.py }}-${{ needs.count.outputs.files }}"
  publish:
    needs: [count, test]
    if: needs.count.outputs.files != '0' && needs.test.result == 'success'
    runs-on: ubuntu-latest
    steps: [{ run: touch published }]
  deploy:
    needs: test
    if: github.ref == 'refs/heads/main'
    runs-on: ubuntu-latest
    steps: [{ run: touch deployed }]
  alert:
    needs: test
    if: failure()
    runs-on: ubuntu-latest
    steps: [{ run: touch alerted }]
"""


def imported(daemon: DaemonProcess, source: Path, tool: str) -> int:
    """The workflow that is imported from a file."""
    flow = source.with_suffix(".toml")
    done = daemon.cli("workflow", "import", "--from", tool, str(source), "-o", str(flow))
    assert done.returncode == 0, done.stderr
    submitted = daemon.cli("workflow", "submit", str(flow))
    assert submitted.returncode == 0, submitted.stderr
    return int(submitted.stdout)


def run(daemon: DaemonProcess, source: Path, tool: str) -> tuple[str, dict[str, str]]:
    """The end of the workflow that is imported from a file, and the states of its steps."""
    workflow = imported(daemon, source, tool)
    with daemon.client() as client:
        return flows.flow_end(client, workflow), flows.step_states(client, workflow)


def test_dag_when_a_node_fails_then_it_is_retried_and_its_children_are_skipped(
    shared: DaemonProcess, tmp_path: Path
) -> None:
    source = tmp_path / "diamond.dag"
    source.write_text(DIAMOND)

    end, states = run(shared, source, "dagman")

    assert end == "failed"
    assert states == {"A": "succeeded", "B": "failed", "C": "succeeded", "D": "skipped"}
    lines = (tmp_path / "trace").read_text().split()
    assert (lines[0], sorted(lines)) == ("a", ["a", "b", "b", "c"])


def test_dag_when_it_has_a_final_node_then_it_runs_after_a_failure_and_a_cancel(
    shared: DaemonProcess, tmp_path: Path
) -> None:
    final = "FINAL Z {\nexecutable = /bin/sh\narguments = \"-c 'echo z >> trace'\"\n}\n"
    source = tmp_path / "final.dag"
    source.write_text(DIAMOND + final)

    end, states = run(shared, source, "dagman")

    assert end == "failed"
    assert states == {"A": "succeeded", "B": "failed", "C": "succeeded", "D": "skipped", "Z": "succeeded"}
    assert (tmp_path / "trace").read_text().split()[-1] == "z"

    (tmp_path / "trace").write_text("")
    source.write_text(JOB.format(name="A", script="exec sleep 600") + final)
    with shared.client() as client:
        workflow = imported(shared, source, "dagman")
        running(client, flows.job_of(client, workflow, "A"))
        client.call("workflow.cancel", {"id": workflow})
        assert flows.flow_end(client, workflow) == "cancelled"
        assert flows.step_states(client, workflow) == {"A": "cancelled", "Z": "succeeded"}
    assert (tmp_path / "trace").read_text() == "z\n"


def test_actions_when_they_are_run_then_matrix_outputs_and_conditions_hold(
    shared: DaemonProcess, tmp_path: Path
) -> None:
    source = tmp_path / "ci.yml"
    source.write_text(ACTIONS)

    end, states = run(shared, source, "github")

    assert end == "succeeded"
    assert {name for name, state in states.items() if state == "skipped"} == {"deploy", "alert"}
    made = {path.name for path in tmp_path.iterdir()} - {"ci.yml", "ci.toml"}
    assert made == {"linux-3.11-3", "linux-3.12-3", "mac-3.12-3", "published"}
