"""DAGMan: the nodes of a DAG file as the steps of a workflow.

Owns what a node runs: its PRE script, its job and its POST script are one step with one script, because a retry of
DAGMan runs all three, and the POST script decides how the node ended.
"""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Any

from stoker.cli.imports.dag_file import DagFile
from stoker.cli.imports.draft import Draft, DraftStep, Remark, StepNames, contracted, flow_name, literal, read_text
from stoker.cli.imports.submit_description import NodeRun, SubmitDescription, read_description, run_of
from stoker.core.errors import FlowInvalid, InvalidParams
from stoker.core.units import counted

if TYPE_CHECKING:
    from stoker.cli.imports.dag_file import DagNode

_IN_SCRIPTS = {"$RETURN": '"$status"', "$RETRY": "$((STOKER_ATTEMPT - 1))"}


def read_dag(source: str) -> Draft:
    """The draft of a DAG file. Raises FlowInvalid with every line that is wrong."""
    dag = DagFile(source)
    dag.read_file(source)
    if dag.mistakes:
        raise FlowInvalid(f"{source} has {counted(len(dag.mistakes), 'mistake')}", errors=dag.mistakes)
    return _DagSteps(source, dag).draft()


class _DagSteps:
    """The nodes of a DAG file, as they become steps."""

    def __init__(self, source: str, dag: DagFile) -> None:
        self._source = source
        self._dag = dag
        self._remarks = dag.remarks
        self._descriptions: dict[str, SubmitDescription] = {}  # by file, or by the name in a DAG file

    def draft(self) -> Draft:
        nodes = self._dag.nodes
        made = {name: fields for name, node in nodes.items() if (fields := self._fields(node)) is not None}
        if not made:
            raise InvalidParams(f"{self._source}: no node has anything to run")
        needs = contracted({name: node.parents for name, node in nodes.items()}, made)
        names = StepNames()
        steps: dict[str, DraftStep] = {}
        finals: dict[str, DraftStep] = {}
        for name, fields in made.items():
            node = nodes[name]
            step = DraftStep(fields, [names[need] for need in needs[name]], f"{node.file}:{node.line}: {name}")
            (finals if node.kind == "FINAL" else steps)[names[name]] = step
        self._remark_on_descriptions()
        head = {"defaults": {"working_dir": literal(self._dag.folder)}}
        return Draft(flow_name(os.path.basename(self._source).removesuffix(".dag")), steps, head, finals, self._remarks)

    def _fields(self, node: DagNode) -> dict[str, Any] | None:
        """The fields of the node's step; None if it has nothing to run."""
        if node.done or (node.noop and not node.scripts):
            return None
        if node.kind in ("SUBDAG", "SPLICE"):
            return self._nested(node)
        run = None if node.noop else self._run(node)
        attempts = (node.retries + 1) * (run.attempts if run else 1)
        more: dict[str, Any] = {"max_attempts": attempts} if attempts > 1 else {}
        if node.kind == "FINAL":
            more["critical"] = True  # of a handler the default is false
        return {**_command(node, run, self._dag.folder), **(run.fields if run else {}), **node.fields, **more}

    def _nested(self, node: DagNode) -> dict[str, Any]:
        """Of a file that is imported on its own."""
        inner = str(node.run)
        flow = inner.removesuffix(".dag") + ".toml"
        command = f"stoker workflow import --from dagman {shlex.quote(inner)} -o {shlex.quote(flow)}"
        self._remark(node, f"import this file, too: {command}", loss=False)
        if node.scripts:
            self._remark(node, f"the scripts of {node.name} are not mapped")
        return {"workflow": literal(flow), **node.fields}

    def _run(self, node: DagNode) -> NodeRun:
        file, description = self._description(node)
        run = run_of(description, {"JOB": node.name, **node.macros}, node.folder)
        if run is None:
            raise InvalidParams(f"{file}: no executable, for the job {node.name}")
        return run

    def _description(self, node: DagNode) -> tuple[str, SubmitDescription]:
        if isinstance(node.run, SubmitDescription):
            return node.file, self._descriptions.setdefault(f"{node.file} {node.name}", node.run)
        if node.run in self._dag.descriptions:
            return node.file, self._descriptions.setdefault(node.file, self._dag.descriptions[node.run])
        file = os.path.relpath(os.path.join(node.folder, node.run))
        if file not in self._descriptions:
            self._descriptions[file] = read_description(list(enumerate(read_text(file).split("\n"), 1)))
        return file, self._descriptions[file]

    def _remark(self, node: DagNode, text: str, *, loss: bool = True) -> None:
        self._remarks.append(Remark(node.file, node.line, text, loss))

    def _remark_on_descriptions(self) -> None:
        for place, description in self._descriptions.items():
            file = place.partition(" ")[0]
            self._remarks += [Remark(file, line, text) for line, text in dict.fromkeys(description.problems)]
            if description.queued and description.queued.text != "1":
                text = f"queue {description.queued.text} is not mapped: the step runs one process"
                self._remarks.append(Remark(file, description.queued.line, text))


def _command(node: DagNode, run: NodeRun | None, folder: str) -> dict[str, Any]:
    """Command and directory of the step. DAGMan runs the scripts in the directory of the node."""
    if run and not node.scripts:
        there = {} if run.folder == folder else {"working_dir": literal(run.folder)}
        if not run.files:
            argv = [*map(literal, run.argv)]
            return {"command": argv[0], **({"args": argv[1:]} if argv[1:] else {}), **there}
        return {"command": "sh", "args": ["-c", literal(f"exec {run.script()}")], **there}
    there = {} if node.folder == folder else {"working_dir": literal(node.folder)}
    job = "true" if run is None else run.script()
    lines = [f"cd {shlex.quote(run.folder)} && {job}" if run and run.folder != node.folder else job]
    if "POST" in node.scripts:
        lines = [f"( {lines[0]} ); status=$?", _script(node, "POST")]
    if "PRE" in node.scripts:
        lines = [f"{_script(node, 'PRE')} || exit", *lines]
    return {"command": "sh", "args": ["-c", literal("\n".join(lines) + "\n")], **there}


def _script(node: DagNode, kind: str) -> str:
    """A PRE or POST script as a command of a shell, with the macros that DAGMan has for these."""
    macros = {"$JOB": shlex.quote(node.name), "$MAX_RETRIES": str(node.retries), **_IN_SCRIPTS}
    program, *args = node.scripts[kind]
    program = program if "/" in program else f"./{program}"
    return " ".join([shlex.quote(program), *(macros.get(arg) or shlex.quote(arg) for arg in args)])
