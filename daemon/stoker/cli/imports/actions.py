"""GitHub Actions: the jobs of a workflow file as the steps of a flow.

Owns which keys of a workflow and of a job mean something on one host. A job with a condition that cannot be said never
runs until a person has written it: it may be there to keep a deployment back.
"""

from __future__ import annotations

import os
from typing import Any

from stoker.cli.imports.actions_expression import NotMapped, condition, parsed
from stoker.cli.imports.actions_script import RunCommand, Values, script
from stoker.cli.imports.draft import Draft, DraftStep, Remark, StepNames, contracted, flow_name, literal
from stoker.cli.imports.yaml_file import LinedMap, read_yaml
from stoker.core.errors import FlowInvalid, InvalidParams, ParseError
from stoker.core.units import counted

NEVER = "false"
MINUTE_MS = 60_000
_SHELLS = {"bash": True, "sh": False, None: False}  # whether a shell fails with any part of a pipe
_OF_WORKFLOW = frozenset({"name", "run-name", "on", "jobs", "env", "defaults", "concurrency", "permissions"})
_OF_JOB = frozenset(
    {
        "continue-on-error",
        "defaults",
        "env",
        "if",
        "name",
        "needs",
        "outputs",
        "permissions",
        "runs-on",
        "secrets",
        "steps",
        "strategy",
        "timeout-minutes",
        "uses",
        "with",
    }
)
_OF_STEP = frozenset(
    {
        "continue-on-error",
        "env",
        "id",
        "if",
        "name",
        "run",
        "shell",
        "uses",
        "with",
        "working-directory",
    }
)
_FILES_OF_STEPS = ("GITHUB_ENV", "GITHUB_PATH", "GITHUB_STEP_SUMMARY")


def read_actions(source: str) -> Draft:
    """The draft of a workflow file. Raises ParseError, or FlowInvalid with every mistake."""
    reading = _ActionsFile(source, read_yaml(source))
    draft = reading.draft()
    if reading.mistakes:
        raise FlowInvalid(f"{source} has {counted(len(reading.mistakes), 'mistake')}", errors=reading.mistakes)
    return draft


class _ActionsFile:
    """One workflow file. A mistake is what GitHub would refuse, too; a remark is what has no place in a flow."""

    def __init__(self, source: str, file: LinedMap) -> None:
        self._source = source
        self._file = file
        self._names = StepNames()
        self._parameters: dict[str, str] = {}
        self._values: dict[str, Values] = {}
        self._remarks: list[Remark] = []
        self.mistakes: list[str] = []

    def draft(self) -> Draft:
        jobs = self._map(self._file, "jobs")
        if not jobs:
            raise InvalidParams(f"{self._source}: no jobs")
        self._parameters = self._inputs()
        self._remark_unknown(self._file, _OF_WORKFLOW, "")
        needs = {name: self._needs(jobs, name, self._map(jobs, name)) for name in jobs}
        works = {name: work for name in jobs if (work := self._job(name, self._map(jobs, name), jobs)) is not None}
        if not works and not self.mistakes:
            raise InvalidParams(f"{self._source}: no job has a step with `run`")
        kept = contracted(needs, works)
        drafts: dict[str, DraftStep] = {}
        for name, work in works.items():
            groups = {need: "matrix" in works[need] for need in needs[name] if need in works}
            fields = self._condition(name, jobs[name], _NeedNames(self._names, groups, self._values[name])) | work
            origin = f"{self._source}:{jobs.line_of(name)}: {name}"
            drafts[self._names[name]] = DraftStep(fields, [self._names[need] for need in kept[name]], origin)
            self._remark_values(self._values[name], jobs.line_of(name))
        title = self._file.get("name") or os.path.basename(self._source).partition(".")[0]
        return Draft(flow_name(str(title)), drafts, self._head(), remarks=self._remarks)

    # --- the whole ------------------------------------------------------------------------------------------

    def _head(self) -> dict[str, Any]:
        values = Values({}, parameters=self._parameters)
        defaults: dict[str, Any] = {"working_dir": literal(_working_copy(self._source))}
        if env := values.environment(self._map(self._file, "env")):
            defaults["env"] = env
        group = self._file.get("concurrency")
        head: dict[str, Any] = {}
        if group is not None:
            cancels = isinstance(group, dict) and group.get("cancel-in-progress") is True
            key = values.in_text(group.get("group", "") if isinstance(group, dict) else group)
            head["concurrency"] = {"key": key, "policy": "supersede" if cancels else "queue"}
        self._remark_values(values, self._file.line_of("concurrency"))
        parameters = {"parameters": self._parameters} if self._parameters else {}
        return {**head, **parameters, "defaults": defaults}

    def _inputs(self) -> dict[str, str]:
        """The inputs of a run by hand or by another workflow; other triggers are named."""
        on = self._file.get("on")
        line = self._file.line_of("on")
        triggers = on if isinstance(on, dict) else dict.fromkeys(on if isinstance(on, list) else [on])
        found: dict[str, str] = {}
        for name, value in triggers.items():
            if name in ("workflow_dispatch", "workflow_call"):
                inputs = value.get("inputs") if isinstance(value, dict) else None
                for key, each in (inputs or {}).items():
                    default = each.get("default", "") if isinstance(each, dict) else ""
                    found[key] = literal(str(default).lower() if isinstance(default, bool) else str(default))
            elif name == "schedule":
                crons = " ".join(repr(str(each.get("cron"))) for each in value or () if isinstance(each, dict))
                self._remark(line, f"on schedule: stoker schedule add NAME {crons} --flow FILE", loss=False)
            elif name is not None:
                self._remark(line, f"on {name} is not mapped: submit the flow, or let a hook of git do it", loss=False)
        return found

    # --- a job ----------------------------------------------------------------------------------------------

    def _needs(self, jobs: LinedMap, name: str, job: LinedMap) -> list[str]:
        needs = job.get("needs") or []
        needs = [needs] if isinstance(needs, str) else needs
        for need in needs if isinstance(needs, list) else ():
            if need not in jobs:
                self._mistake(job.line_of("needs"), f"jobs.{name}.needs: there is no job {need!r}")
        return [need for need in needs if need in jobs]

    def _job(self, name: str, job: LinedMap, jobs: LinedMap) -> dict[str, Any] | None:
        """The fields of its step; None if nothing of it can run here."""
        self._remark_unknown(job, _OF_JOB, f"jobs.{name}.")
        values = Values({each: self._names[each] for each in jobs}, parameters=self._parameters)
        self._values[name] = values
        values.known = Values({}, parameters=self._parameters).environment(self._map(self._file, "env"))
        fan_out = self._fan_out(name, job, values)
        if fan_out is None:
            return None
        if isinstance(uses := job.get("uses"), str):
            work = self._nested(job, uses, values)
        else:
            found = self._work(name, job, values)
            if found is None:
                self._remark(job.line_of(), f"jobs.{name}: no step with `run`, so it is left out")
                return None
            work = found
        return {**fan_out, **work, **self._limits(name, job)}

    def _condition(self, name: str, job: LinedMap, names: _NeedNames) -> dict[str, Any]:
        given = job.get("if")
        if given is None or given is True:
            return {}
        text = (
            str(given).strip().removeprefix("${{").removesuffix("}}") if isinstance(given, str) else str(given).lower()
        )
        try:
            found = condition(parsed(text), names)
        except (NotMapped, ParseError) as error:
            self._remark(
                job.line_of("if"),
                f"jobs.{name}.if: {error} is not mapped: the step never runs until you write its `if`",
            )
            return {"if": NEVER}
        fields = {"when": found.when} if found.when and job.get("needs") else {}
        return fields | ({"if": found.text} if found.text else {})

    def _fan_out(self, name: str, job: LinedMap, values: Values) -> dict[str, Any] | None:
        strategy = self._map(job, "strategy")
        matrix = strategy.get("matrix")
        if matrix is None:
            return {}
        line = strategy.line_of("matrix")
        if not isinstance(matrix, LinedMap) or not all(isinstance(axis, list) for axis in matrix.values()):
            self._remark(line, f"jobs.{name}.strategy.matrix is an expression, so the job is left out")
            return None
        axes = [key for key in matrix if key not in ("include", "exclude")]
        included = [entry for entry in matrix.get("include", ()) if isinstance(entry, dict)]
        flat = [matrix[axis] for axis in axes] + [list(entry.values()) for entry in included]
        if not all(map(_is_flat, flat)):
            self._remark(line, f"jobs.{name}.strategy.matrix has values that are no text, so the job is left out")
            return None
        added = dict.fromkeys((key for entry in included for key in entry if key not in axes), "")
        values.axes = frozenset([*axes, *added])
        fields: dict[str, Any] = {"matrix": {key: _sent(value) for key, value in matrix.items()}}
        if added:
            fields["matrix"]["include"] = _with_all_keys(_sent(included), added, alone=not axes)
        if isinstance(strategy.get("max-parallel"), int):
            fields["width"] = strategy["max-parallel"]
        if strategy.get("fail-fast", True) is True:
            fields["fail_fast"] = True
        return fields

    def _limits(self, name: str, job: LinedMap) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        minutes, goes_on = job.get("timeout-minutes"), job.get("continue-on-error")
        if isinstance(minutes, int | float):
            fields["timeout_ms"] = round(minutes * MINUTE_MS)
        elif minutes is not None:
            self._remark(job.line_of("timeout-minutes"), f"jobs.{name}.timeout-minutes: {minutes} is not mapped")
        if goes_on is True:
            fields["critical"] = False
        elif goes_on:
            self._remark(job.line_of("continue-on-error"), f"jobs.{name}.continue-on-error: {goes_on} is not mapped")
        system = job.get("runs-on")
        if not str(system).startswith(("ubuntu", "self-hosted")) and system is not None:
            self._remark(job.line_of("runs-on"), f"jobs.{name}.runs-on: {system}: every step runs on this host")
        return fields

    def _nested(self, job: LinedMap, uses: str, values: Values) -> dict[str, Any]:
        """A job that is another workflow file."""
        if not uses.startswith("./"):
            self._remark(job.line_of("uses"), f"{uses} is not mapped: write this workflow yourself")
        flow = os.path.basename(uses).partition(".")[0] + ".toml"
        self._remark(job.line_of("uses"), f"import this file, too, as {flow}: {uses}", loss=False)
        given = {key: values.in_text(text) for key, text in self._map(job, "with").items()}
        return {"workflow": flow, **({"parameters": given} if given else {})}

    def _work(self, name: str, job: LinedMap, values: Values) -> dict[str, Any] | None:
        env = values.environment(self._map(job, "env"))
        values.known |= env
        steps = job.get("steps") or []
        commands = [
            command
            for index, step in enumerate(steps if isinstance(steps, list) else [])
            if isinstance(step, LinedMap)
            if (command := self._command(f"jobs.{name}.steps[{index}]", job, step))
        ]
        if not commands:
            return None
        text = script(commands, values)
        self._remark_outputs(name, job, text)
        env |= values.variables
        return {"command": "bash", "args": ["-e", "-c", literal(text)], **({"env": env} if env else {})}

    def _command(self, path: str, job: LinedMap, step: LinedMap) -> RunCommand | None:
        self._remark_unknown(step, _OF_STEP, f"{path}.")
        if "run" not in step:
            uses = str(step.get("uses"))
            harmless = uses.startswith("actions/checkout@")
            text = "the directory of the file is used" if harmless else "left out"
            self._remark(step.line_of("uses"), f"{path}: uses {uses}: {text}", loss=not harmless)
            return None
        if "if" in step and str(step["if"]).strip("${} ") not in ("success()", "true"):
            self._remark(step.line_of("if"), f"{path}.if: {step['if']} is not mapped, so the step is left out")
            return None
        shell = step.get("shell", self._default(job, "shell"))
        if shell not in _SHELLS:
            self._remark(step.line_of("shell"), f"{path}.shell: {shell} is not mapped, so the step is left out")
            return None
        text = str(step["run"])
        for variable in _FILES_OF_STEPS:
            if variable in text:
                self._remark(step.line_of("run"), f"{path}.run: ${variable} is not mapped")
        folder = step.get("working-directory", self._default(job, "working-directory")) or ""
        variables = {key: _plain(value) for key, value in self._map(step, "env").items()}
        goes_on = step.get("continue-on-error") is True
        return RunCommand(str(step.get("name") or ""), text, str(folder), variables, goes_on, _SHELLS[shell])

    def _default(self, job: LinedMap, key: str) -> Any:
        """The value of `defaults.run` in the job, else in the file."""
        for place in (job, self._file):
            found = self._map(self._map(place, "defaults"), "run").get(key)
            if found is not None:
                return found
        return None

    # --- remarks --------------------------------------------------------------------------------------------

    def _map(self, of: LinedMap, key: str) -> LinedMap:
        value = of.get(key)
        if value is None:
            return LinedMap(of.line_of(key))
        if not isinstance(value, LinedMap):
            self._mistake(of.line_of(key), f"{key}: not a mapping")
            return LinedMap(of.line_of(key))
        return value

    def _mistake(self, line: int, text: str) -> None:
        if (mistake := f"{self._source}:{line}: {text}") not in self.mistakes:
            self.mistakes.append(mistake)

    def _remark(self, line: int, text: str, *, loss: bool = True) -> None:
        self._remarks.append(Remark(self._source, line, text, loss))

    def _remark_unknown(self, mapping: LinedMap, known: frozenset[str], path: str) -> None:
        for key in mapping:
            if key not in known:
                self._remark(mapping.line_of(key), f"{path}{key} is not mapped")

    def _remark_values(self, values: Values, line: int) -> None:
        for text in dict.fromkeys(values.unmapped):
            self._remark(line, f"{text} is not mapped: give the value yourself")

    def _remark_outputs(self, name: str, job: LinedMap, text: str) -> None:
        """An output of a job keeps its value if the step wrote it by the same name."""
        outputs = self._map(job, "outputs")
        for key, value in outputs.items():
            path = str(value).strip().removeprefix("${{").removesuffix("}}").strip().split(".")
            if path[:1] != ["steps"] or path[-1] != key or "GITHUB_OUTPUT" not in text:
                self._remark(
                    outputs.line_of(key), f"jobs.{name}.outputs.{key}: let the script write {key} to $STOKER_OUTPUT"
                )


class _NeedNames:
    """The names that contexts have in the `if` of a step. `groups`: its needs, and whether each has a matrix."""

    def __init__(self, names: StepNames, groups: dict[str, bool], values: Values) -> None:
        self._names, self._groups, self._values = names, groups, values

    def value(self, path: tuple[str, ...]) -> str:
        """An output that the need did not write is empty."""
        if path[0] != "needs":
            name = self._values.parameter(path)
            return f"parameters.{name}" if name.isidentifier() else f"parameters[{name!r}]"
        if len(path) != 4 or path[2] != "outputs" or self._groups.get(path[1], True):  # noqa: PLR2004 - needs.JOB.outputs.NAME
            raise NotMapped(".".join(path))
        outputs = f"{self._need(path[1])}.outputs"
        return f"({path[3]!r} in {outputs} ? {outputs}[{path[3]!r}] : '')"

    def has_ended(self, path: tuple[str, ...], state: str) -> str:
        """Of a matrix: it has succeeded if all of its jobs have; in any other state if one of them is in it."""
        if len(path) != 3 or path[0] != "needs" or path[1] not in self._groups:  # noqa: PLR2004 - needs.JOB.result
            raise NotMapped(".".join(path))
        need = self._need(path[1])
        if self._groups[path[1]]:
            return f"{need}.{'all' if state == 'succeeded' else 'exists'}(s, s.state == '{state}')"
        return f"{need}.state == '{state}'"

    def _need(self, job: str) -> str:
        step = self._names[job]
        return f"needs.{step}" if step.isidentifier() else f"needs[{step!r}]"


def _with_all_keys(included: list[dict[str, Any]], added: dict[str, str], *, alone: bool) -> list[dict[str, Any]]:
    """The entries of `include`, so that each item has all keys; to GitHub a key that an item lacks is empty."""
    return [added | entry for entry in included] if alone else [added, *included]


def _is_flat(values: list[Any]) -> bool:
    return all(isinstance(value, str | int | float | bool) for value in values)


def _sent(value: Any) -> Any:
    """A value of a matrix as a flow has it: texts and whole numbers."""
    if isinstance(value, list):
        return [_sent(each) for each in value]
    if isinstance(value, dict):
        return {key: _sent(each) for key, each in value.items()}
    if isinstance(value, str):
        return literal(value)
    return value if isinstance(value, bool | int) else _plain(value)


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)


def _working_copy(source: str) -> str:
    """The root of the working copy: above .github/workflows, else the directory of the file."""
    folder = os.path.dirname(os.path.abspath(source))
    return folder.removesuffix("/.github/workflows") or "/"
