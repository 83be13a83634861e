"""Reads files and environment into a Config, or reports every mistake at once.

Owns where the file is searched, the closed table of environment names, and the order of the sources: the environment
overrides the file. One mistake refuses the whole file.

Invariants: a Config that `load` returns satisfies every bound and every rule between keys. An unknown variable whose
name begins with STOKER_ and a section is a mistake; other `STOKER_*` variables belong to jobs and are ignored.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Union, get_args

import msgspec
from msgspec import UNSET, Struct, UnsetType, inspect
from msgspec.structs import replace

from stoker.config.accounts import missing_groups, wrong_users
from stoker.config.cluster_section import SlurmSection, cluster_mistakes, mistakes_of_options, overflow_mistakes
from stoker.config.flow_section import check_flow, missing_keys, tables_of
from stoker.config.handler_modules import wrong_modules
from stoker.config.hook_section import HookSection
from stoker.config.mistakes import rejected, unknown
from stoker.config.quota_section import QuotaSection
from stoker.config.section import Section
from stoker.config.settings import SECTIONS, Config, KeepSection, QueueSection, RateSection
from stoker.core.errors import ConfigInvalid, InvalidParams, StokerError
from stoker.core.hooks import Hook, useless_filters
from stoker.core.job.model import Spec
from stoker.core.job.secret_values import NOT_KEPT
from stoker.core.job.spec_rules import contradictions_of_defaults
from stoker.core.leaves import leaves, nul_problem
from stoker.core.rate import HINT, changed
from stoker.core.requests import JobDefaults, JobWork, RateName
from stoker.core.schedule.request import ScheduleParams, checked
from stoker.core.similar_names import nearest
from stoker.core.throttle import check_floor
from stoker.core.units import counted
from stoker.paths import config_files

QUEUE_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
A_NAME: Final = "a name is 1 to 64 of a-z 0-9 . _ - and starts with a-z or 0-9"

# (section, key, the key that it must not exceed)
ORDERED: Final = (
    ("cpu", "resume_threshold", "throttle_threshold"),
    ("memory", "resume_threshold", "throttle_threshold"),
    ("retry", "base_delay_ms", "max_delay_ms"),
    ("rpc", "max_connections_per_uid", "max_connections"),
)

NAMED: Final = ("queues", "rates", "schedules", "hooks")  # tables of sections that have names
WITHOUT_SECRETS: Final = (JobWork, HookSection)  # which have a command, and no place for the values
OF_A_REQUEST: Final = ("name", "replace", "reason")  # fields of `schedule.add` that no section has
# Tables of a section with other values for what they name.
NESTED: Final[Mapping[str, Mapping[str, type[Section]]]] = {
    "retention": {"queues": KeepSection, "workflows": KeepSection},
    "quotas": {"users": QuotaSection},
}

ENVIRONMENT: Final[dict[str, tuple[str, str]]] = {
    f"STOKER_{section}_{key}".upper(): (section, key)
    for section, struct in SECTIONS.items()
    for key in struct.__struct_encode_fields__
}


def find(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The file that `load` reads: `path`, else the first default file that exists, else None."""
    if path is not None:
        return path
    return next((file for file in map(Path, config_files(environ)) if _may_be_there(file)), None)


def _may_be_there(file: Path) -> bool:
    try:
        return file.is_file()
    except PermissionError:  # `load` fails on it: ignoring a settings file in silence would be worse
        return True


def load(path: Path | None, environ: Mapping[str, str], *, again: bool = False) -> Config:
    """The defaults, overridden by the file, overridden by the environment.

    `again`: in a running daemon, which must not wait for the writer of a pipe, or take its end for an empty file.
    Raises ConfigInvalid. Its `errors` lists every mistake, each with its key or variable.
    """
    path = find(path, environ)
    reader = _Reader()
    if path is not None:
        if again and path.exists() and not path.is_file():
            raise _invalid(path, ["is not a regular file, so it cannot be read a second time"])
        reader.read_text(_text_of(path))
    reader.read_environment(environ)
    config = reader.finish()
    if reader.errors:
        raise _invalid(path, reader.errors)
    return config


def check(path: Path | None, environ: Mapping[str, str]) -> None:
    """As `load`, with a look at what else a start needs. Raises ConfigInvalid."""
    config = load(path, environ)
    if mistakes := [*wrong_modules(config.daemon.handlers)]:
        raise _invalid(find(path, environ), mistakes)


def _text_of(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise _invalid(path, [f"cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise _invalid(path, [f"is not UTF-8 at byte {error.start}"]) from error


def _invalid(path: Path | None, errors: list[str]) -> ConfigInvalid:
    where = "the environment" if path is None else str(path)
    what = errors[0] if len(errors) == 1 else counted(len(errors), "mistake")
    file = "" if path is None else f" {shlex.quote(str(path.absolute()))}"
    hint = f"stoker config check{file}"
    return ConfigInvalid(f"{where}: {what}", hint=hint, errors=errors, file=None if path is None else str(path))


class _Reader:
    """Collects values and mistakes; a wrong value is left out."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self._values: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
        self._queues: dict[str, dict[str, Any]] = {}
        self._nested: dict[str, dict[str, Any]] = {}
        self._rates: dict[str, RateSection] = {}
        self._schedules: dict[str, ScheduleParams] = {}
        self._hooks: dict[str, Hook] = {}
        self._wrong: set[tuple[str, str]] = set()

    def read_text(self, text: str) -> None:
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            self.errors.append(f"not TOML: {error}")
            return
        except (ValueError, RecursionError) as error:
            problem = "nested too deeply" if isinstance(error, RecursionError) else "a number has thousands of digits"
            self.errors.append(f"not usable: {problem}")
            return
        if mistakes := [f"{path}: {nul}" for path, leaf in leaves(document) if (nul := nul_problem(leaf))]:
            self.errors += mistakes
            return
        for name, table in document.items():
            if name == "queues":
                self._read_queues(table)
            elif name == "rates":
                self._read_rates(table)
            elif name == "schedules":
                self._read_schedules(table)
            elif name == "hooks":
                self._read_hooks(table)
            elif name not in SECTIONS:
                self.errors.append(unknown(f"[{name}]", "section", nearest(name, [*SECTIONS, *NAMED])))
            else:
                own = self._without_nested(name, table)
                self._values[name] = self._read_table(name, SECTIONS[name], own)

    def read_environment(self, environ: Mapping[str, str]) -> None:
        for variable, (section, key) in ENVIRONMENT.items():
            if variable not in environ:
                continue
            type_ = _keys(SECTIONS[section])[key]
            try:
                self._values[section][key] = _from_text(environ[variable], type_)
            except msgspec.ValidationError:
                self._wrong.add((section, key))
                self.errors.append(rejected(variable, environ[variable], type_))
        for section in SECTIONS:
            self._name_unknown(f"STOKER_{section}_".upper(), environ)

    def _name_unknown(self, prefix: str, environ: Mapping[str, str]) -> None:
        by_key = {variable.removeprefix(prefix): variable for variable in ENVIRONMENT if variable.startswith(prefix)}
        for variable in sorted(environ):
            key = variable.removeprefix(prefix)
            if key != variable and variable not in ENVIRONMENT:
                self.errors.append(unknown(variable, "key", by_key.get(nearest(key, by_key) or "")))

    def finish(self) -> Config:
        config = msgspec.convert({**self._values, **self._nested, "queues": self._queues}, Config)
        config = replace(config, schedules=self._schedules, rates=self._rates, hooks=self._hooks)
        for section, low, high in ORDERED:
            below, above = (getattr(getattr(config, section), key) for key in (low, high))
            if below > above and not self._wrong & {(section, low), (section, high)}:
                self.errors.append(f"[{section}] {low} = {below:g} must not be above {high} = {above:g}")
        self.errors += [*missing_groups(config.access), *wrong_users(config.quotas_users)]
        self.errors += cluster_mistakes(config.cluster, config.backends, config.run_as.user)
        self.errors += overflow_mistakes(config.queues)
        for name, queue in config.queues.items():
            self._check_defaults(f"queues.{name}.defaults", config.job_defaults(), queue.defaults)
        return config

    def _check_defaults(self, section: str, settings: dict[str, Any], defaults: JobDefaults | UnsetType) -> None:
        """The defaults of a queue must not contradict each other or the settings."""
        if isinstance(defaults, UnsetType):
            return
        own = {name: value for name in defaults.__struct_fields__ if (value := getattr(defaults, name)) is not UNSET}
        problems = contradictions_of_defaults(Spec(command="", **settings | own), own)
        self.errors += [f"[{section}] {problem.message}" for problem in problems]

    def _without_nested(self, section: str, table: Any) -> Any:
        """Read the tables in a section, as [retention.queues.NAME]; returns its other keys."""
        kinds = NESTED.get(section, {})
        if not isinstance(table, dict):
            return table
        for kind, type_ in kinds.items():
            names = table.get(kind, {})
            if self._is_table(f"{section}.{kind}", names):
                read = {name: self._read_table(f"{section}.{kind}.{name}", type_, names[name]) for name in names}
                self._nested[f"{section}_{kind}"] = read
        return {key: value for key, value in table.items() if key not in kinds}

    def _read_queues(self, queues: Any) -> None:
        if not self._is_table("queues", queues):
            return
        for name, table in queues.items():
            if QUEUE_NAME.fullmatch(name):
                self._queues[name] = self._read_queue(f"queues.{name}", table)
            else:
                self.errors.append(f"[queues.{name}]: {A_NAME}")

    def _read_queue(self, section: str, table: Any) -> dict[str, Any]:
        table = dict(table) if isinstance(table, dict) else table
        defaults = table.pop("defaults", {}) if isinstance(table, dict) else {}
        slurm = table.pop("slurm", {}) if isinstance(table, dict) else {}
        values = self._read_table(section, QueueSection, table)
        if slurm != {}:
            values["slurm"] = self._read_slurm(section, values.get("backend"), slurm)
        self._check_rate(section, values.get("rate", UNSET), values.get("burst", UNSET))
        try:
            check_floor(values.get("min_running"), values.get("max_running"))
        except InvalidParams as error:
            self.errors.append(f"[{section}] {error.message}")
        if defaults != {}:
            values["defaults"] = self._read_table(f"{section}.defaults", JobDefaults, defaults)
        return values

    def _read_slurm(self, section: str, backend: str | None, table: Any) -> SlurmSection:
        if backend is None:
            self.errors.append(f'[{section}.slurm]: without backend = "slurm" it has no effect')
        values = self._read_table(f"{section}.slurm", SlurmSection, table)
        self.errors += mistakes_of_options(f"[{section}.slurm]", values.get("extra", ()))
        return msgspec.convert(values, SlurmSection)

    def _read_rates(self, rates: Any) -> None:
        if not self._is_table("rates", rates):
            return
        for key, table in rates.items():
            section = f"rates.{key}"
            values = self._read_table(section, RateSection, table)
            if not _takes(RateName, key):
                self.errors.append(f"[{section}]: a key is 1 to 128 of A-Z a-z 0-9 . _ : @ / -, or * for all others")
            elif "rate" not in values:
                self.errors.append(f"[{section}] rate: it is missing; {HINT}")
            elif self._check_rate(section, values["rate"], values.get("burst", UNSET)):
                self._rates[key] = RateSection(**values)

    def _check_rate(self, section: str, rate: str | UnsetType, burst: int | UnsetType) -> bool:
        if rate is UNSET:  # the rate may have been set with `stoker queue set`
            return True
        try:
            changed(None, rate, burst)
        except InvalidParams as error:
            self.errors.append(f"[{section}] {error.message}; {error.hint}")
            return False
        return True

    def _read_schedules(self, schedules: Any) -> None:
        if not self._is_table("schedules", schedules):
            return
        for name, table in schedules.items():
            section = f"schedules.{name}"
            if self._is_table(section, table) and self._is_schedule(section, name, table):
                self._schedules[name] = msgspec.convert({**table, "name": name}, ScheduleParams)

    def _is_schedule(self, section: str, name: str, table: dict[str, Any]) -> bool:
        """Whether the section is a valid schedule. Only the daemon can check its flow and its queue."""
        before = len(self.errors)
        own = {key: value for key, value in table.items() if key != "job"}
        self._read_table(section, ScheduleParams, own, without=OF_A_REQUEST)
        if "job" in table:
            self._read_table(f"{section}.job", JobWork, table["job"])
        if isinstance(table.get("flow"), dict):
            self._read_flow(f"{section}.flow", table["flow"])
        if len(self.errors) == before:
            try:
                schedule = checked(msgspec.convert({**table, "name": name}, ScheduleParams), 0, 0)
                if schedule.flow is not None:
                    check_flow(schedule.flow, schedule.flow_part)
            except (StokerError, msgspec.ValidationError) as error:
                text = error.message if isinstance(error, StokerError) else str(error)
                self.errors.append(f"[{section}] {text}")
        return len(self.errors) == before

    def _read_flow(self, section: str, flow: dict[str, Any]) -> None:
        for place, struct, table in tables_of(section, flow):
            self._read_table(place, struct, table)
        self.errors += missing_keys(section, flow)

    def _read_hooks(self, hooks: Any) -> None:
        if not self._is_table("hooks", hooks):
            return
        for name, table in hooks.items():
            if not QUEUE_NAME.fullmatch(name):
                self.errors.append(f"[hooks.{name}]: {A_NAME}")
            elif self._is_table(f"hooks.{name}", table):
                self._read_hook(name, table)

    def _read_hook(self, name: str, table: dict[str, Any]) -> None:
        section, before = f"hooks.{name}", len(self.errors)
        values = self._read_table(section, HookSection, table)
        for key, example in (("on", 'on = ["job.failed"]'), ("command", 'command = "/usr/local/bin/tell"')):
            if key not in table:
                self.errors.append(f"[{section}] {key}: it is missing, as in {example}")
        if len(self.errors) > before:
            return
        hook = msgspec.convert(values, HookSection).hook(name)
        for twice in {on for on in hook.on if hook.on.count(on) > 1}:
            self.errors.append(f"[{section}] on: {twice.value} is named twice")
        for key, on in useless_filters(hook.on, table.keys() & {"queue", "workflow", "labels"}):
            self.errors.append(f"[{section}] {key}: it does not apply to {on.value}; make two hooks, or leave it out")
        self._hooks[name] = hook
        try:
            hook.work  # noqa: B018 - checks the arguments and the environment
        except InvalidParams as error:
            self.errors.append(f"[{section}] {error.message}")

    def _read_table(
        self, section: str, struct: type[Struct], table: Any, *, without: Sequence[str] = ()
    ) -> dict[str, Any]:
        """The valid keys of a table; every other key becomes a mistake. `without`: keys that it may not have."""
        if not self._is_table(section, table):
            return {}
        keys = {key: type_ for key, type_ in _keys(struct).items() if key not in without}
        values = {}
        for key, value in table.items():
            if key == "secrets" and struct in WITHOUT_SECRETS:
                self.errors.append(f"[{section}] {key}: {NOT_KEPT}")
            elif key not in keys:
                self.errors.append(unknown(f"[{section}] {key}", "key", nearest(key, keys)))
            elif _takes(keys[key], value):
                values[key] = value
            else:
                self._wrong.add((section, key))
                self.errors.append(rejected(f"[{section}] {key}", value, keys[key]))
        return values

    def _is_table(self, section: str, value: Any) -> bool:
        if isinstance(value, dict):
            return True
        self.errors.append(f"[{section}]: expected a table of keys")
        return False


def _keys(struct: type[Struct]) -> dict[str, Any]:
    """The keys of a section as the file names them, with their types."""
    return {key.encode_name: _without_unset(key.type) for key in msgspec.structs.fields(struct)}


def _without_unset(type_: Any) -> Any:
    if UnsetType not in get_args(type_):
        return type_
    return Union[tuple(choice for choice in get_args(type_) if choice is not UnsetType)]  # noqa: UP007 - built, not written


def _takes(type_: Any, value: Any) -> bool:
    try:
        msgspec.convert(value, type_)
    except msgspec.ValidationError:
        return False
    return True


def _from_text(raw: str, type_: Any) -> Any:
    """Convert a variable to its key's type: lists are split at commas, numbers may have underscores."""
    match inspect.type_info(type_):
        case inspect.Metadata(type=inspect.VarTupleType()):
            return msgspec.convert([item.strip() for item in raw.split(",") if item.strip()], type_)
        case inspect.Metadata(type=inspect.StrType()):
            return msgspec.convert(raw, type_)
    return msgspec.convert(raw.strip().replace("_", ""), type_, strict=False)
