"""A Config as TOML, every key with its help: what `stoker config show` prints and `config/stoker.toml` holds.

Owns the layout of that text. Every key is in it, defaults included. Reading the text back gives the same Config.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from enum import Enum
from textwrap import fill
from typing import Any, Final, NamedTuple, get_args

import msgspec
from msgspec import UNSET, Meta, Struct

from stoker.config.cluster_section import SlurmSection
from stoker.config.mistakes import number
from stoker.config.section import Section
from stoker.config.settings import SECTIONS, Config, QueueSection
from stoker.core.hooks import Hook, HookOn
from stoker.core.requests import JobDefaults
from stoker.core.schedule.request import ScheduleParams

WIDTH: Final = 116

HEAD: Final = """\
# Settings of stokerd. Every key is shown with its value; all keys are optional.
#
# stokerd reads the file of --config, else $XDG_CONFIG_HOME/stoker/stoker.toml, else /etc/stoker/stoker.toml.
# A variable STOKER_<SECTION>_<KEY> overrides a key, as in STOKER_CPU_THROTTLE_THRESHOLD=85; commas separate lists.
# Names end with their unit. `stoker config check` reports every mistake at once.
"""

QUEUES: Final = f"""\
# Queues. One section each, named by a-z 0-9 . _ - (at most 64). The queue `default` (class normal) always exists.
# Keys that a section leaves out keep the values set with `stoker queue set`.
#
# [queues.bulk]
# class = "low"
# max_running = 4
# min_running = 1
# max_queued = 100_000
# rate = "100/m"  # at most 100 of its jobs start in a minute, retries included
# burst = 20
# paused = false
# [queues.bulk.defaults]
# max_attempts = 3
#
# The keys of `defaults`, with the meaning that they have in a job:
{fill(", ".join(JobDefaults.__struct_fields__), width=WIDTH, initial_indent="#   ", subsequent_indent="#   ")}
#
# A queue with a backend hands its jobs to Slurm (docs/slurm.md; [cluster] above), with these wishes:
#   {", ".join(SlurmSection.__struct_fields__)}
#
# [queues.hpc]
# backend = "slurm"
# [queues.hpc.slurm]
# partition = "long"
# cpus = 8
# extra = ["--gres=gpu:a100:2"]
#
# A queue of this host gives jobs to it while the host is busy (class low), or above so many queued ones:
# [queues.bulk]
# overflow = "hpc"
# overflow_above = 100
"""


QUOTAS: Final = """\
# Other limits of one user, by its name or number. What a section leaves out is as in [quotas].
#
# [quotas.users.ann]
# max_running = 8
"""


KEEPS: Final = """\
# Other times for the jobs of one queue, or for the workflows of one name. `keep` alone counts for failed ones too.
#
# [retention.queues.bulk]
# keep = "7d"
# keep_failed = "90d"
# [retention.workflows.nightly]
# keep_last = 50
"""


RATES: Final = """\
# Rates of keys (`rate_key` of a job). One section each; "*" stands for each key without a rate of its own. A rate that
# is taken out of the file stays in force: stoker rate rm.
#
# [rates."api.example.com"]
# rate = "10/s"
# burst = 5
"""


SCHEDULES: Final = """\
# Schedules. One section each; one that is taken out of the file is removed. `timing` is a cron expression, @daily,
# "every 15m" or "at 2026-12-01T03:00", in the time zone `zone`. A schedule has a job, with the fields that it has in a
# request, or a flow, as a flow file has it.
#
# [schedules.nightly]
# timing = "30 2 * * *"
# zone = "Europe/Berlin"
# misfire = "latest"  # slots that came while no daemon ran: skip, latest or all
# catch_up_ms = 86_400_000  # how old a slot may be to be made up for
# overlap = "skip"  # a slot comes before the last run has ended: allow, skip, queue or supersede
# jitter_ms = 0
# [schedules.nightly.job]
# command = "/usr/local/bin/backup"
# args = ["--full"]
#
# With a flow, target = ["link"] and from = ["compile"] submit a part of it; reuse = "latest" (or the id of a workflow)
# takes over unchanged steps.
"""


HOOKS: Final = f"""\
# Hooks. One section each: a change runs a command, as a durable job of the queue `hooks`. The command finds the change
# as JSON in the file $STOKER_HOOK_FILE, and in one line in $STOKER_HOOK_SUMMARY. Filters that are left out let every
# change pass. Retries and limits are those of [queues.hooks.defaults]. `stoker hook test NAME` tries a hook.
#
# [hooks.mail]
# on = ["job.failed", "workflow.failed"]
# workflow = "nightly"  # the changes of workflows of this name and of their steps
# command = "/usr/local/lib/stoker/mail-by-sendmail"
# args = ["root"]
# [hooks.chat]
# on = ["job.held"]
# queue = "release"
# labels = {{ team = "web" }}
# command = "/usr/local/lib/stoker/webhook-by-curl"
# env = {{ WEBHOOK_URL = "https://chat.example.com/hook" }}
# working_dir = "/"
#
# The changes:
{fill(", ".join(HookOn), width=WIDTH, initial_indent="#   ", subsequent_indent="#   ")}
"""


NO_REMARKS: Final[Mapping[str, str]] = {}


def describe(config: Config, remarks: Mapping[str, str] = NO_REMARKS) -> str:
    """The whole of `config` as TOML text. `remarks`: by `section.key`, for the comment of a key."""
    parts = [HEAD, *(_table(name, getattr(config, name), remarks) for name in SECTIONS), KEEPS]
    parts += [_nested("retention.queues", name, section) for name, section in config.retention_queues.items()]
    parts += [_nested("retention.workflows", name, section) for name, section in config.retention_workflows.items()]
    parts.append(QUOTAS)
    parts += [_nested("quotas.users", name, section) for name, section in config.quotas_users.items()]
    parts.append(QUEUES)
    parts += [_queue(name, section) for name, section in config.queues.items()]
    parts.append(RATES)
    parts += [f"[rates.{as_toml(key)}]\n{_lines(section)}" for key, section in config.rates.items()]
    parts.append(SCHEDULES)
    parts += [_schedule(schedule) for schedule in config.schedules.values()]
    parts.append(HOOKS)
    parts += [_hook(hook) for hook in config.hooks.values()]
    return "\n".join(parts)


class SettingText(NamedTuple):
    """One key of a fixed section, as TOML. `is_default`: it has the value that it has without any settings."""

    name: str
    value: str
    is_default: bool
    help: str


def setting_texts(config: Config) -> Iterator[SettingText]:
    """Every key of the fixed sections; the tables that people fill in are left out."""
    for name, type_ in SECTIONS.items():
        section, usual = getattr(config, name), type_()
        for key in msgspec.structs.fields(type_):
            value = getattr(section, key.name)
            is_default = value == getattr(usual, key.name)
            yield SettingText(f"{name}.{key.encode_name}", as_toml(value), is_default, help_of(key.type))


def _table(name: str, section: Section, remarks: Mapping[str, str]) -> str:
    comment = (type(section).__doc__ or "").partition("\n")[0]
    own = {key.removeprefix(f"{name}."): text for key, text in remarks.items() if key.startswith(f"{name}.")}
    return f"# {comment}\n[{name}]\n{_lines(section, own)}"


def _nested(table: str, name: str, section: Section) -> str:
    return f"[{table}.{as_toml(name)}]\n{_lines(section)}"


def _queue(name: str, section: QueueSection) -> str:
    table = f'queues."{name}"' if "." in name else f"queues.{name}"
    text = f"[{table}]\n{_lines(section)}"
    if section.backend is not None:
        text += f"[{table}.slurm]\n{_lines(section.slurm)}"
    if section.defaults is not UNSET:
        text += f"[{table}.defaults]\n{_lines(section.defaults)}"
    return text


def _schedule(schedule: ScheduleParams) -> str:
    """As one inline table a line: a flow has tables of any depth."""
    fields = msgspec.to_builtins(schedule)
    own = {key: value for key, value in fields.items() if value not in (None, ()) and key not in ("name", "replace")}
    return f"[schedules.{as_toml(schedule.name)}]\n" + "".join(
        f"{key} = {as_toml(value)}\n" for key, value in own.items()
    )


def _hook(hook: Hook) -> str:
    fields = msgspec.structs.asdict(hook)
    own = {key: value for key, value in fields.items() if value not in (None, {}, ()) and key != "name"}
    return f"[hooks.{as_toml(hook.name)}]\n" + "".join(f"{key} = {as_toml(value)}\n" for key, value in own.items())


def _lines(section: Struct, remarks: Mapping[str, str] = NO_REMARKS) -> str:
    """One line for each key that is set. Its help stands behind it, or above it if the line would be too long."""
    text = ""
    for key in msgspec.structs.fields(section):
        value = getattr(section, key.name)
        if value is UNSET or value is None or isinstance(value, Struct):
            continue
        line = f"{key.encode_name} = {as_toml(value)}"
        comment = " ".join(filter(None, (help_of(key.type), remarks.get(key.encode_name))))
        if not comment:
            text += f"{line}\n"
        elif len(line) + len(comment) < WIDTH:
            text += f"{line}  # {comment}\n"
        else:
            text += f"# {comment}\n{line}\n"
    return text


def help_of(type_: Any) -> str:
    """The description in the Meta of an Annotated type, which may also be a member of a union with UNSET."""
    for argument in get_args(type_):
        if isinstance(argument, Meta) and argument.description:
            return argument.description
    return next((text for inner in get_args(type_) if (text := help_of(inner))), "")


def as_toml(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case Enum():
            return as_toml(value.value)
        case str():
            # A JSON string is also a TOML string, except that TOML wants DEL escaped.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case int() | float():
            return number(value)
        case dict():
            return "{ " + ", ".join(f"{as_toml(key)} = {as_toml(inner)}" for key, inner in value.items()) + " }"
        case tuple() | list():
            return "[" + ", ".join(map(as_toml, value)) + "]"
    raise TypeError(type(value))
