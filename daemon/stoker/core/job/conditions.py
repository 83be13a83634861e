"""The conditions that a job waits for (`wait_for`): a tree of `all` and `any`, and the part of it that is still open.

A condition is a text such as `event:deploy` or `idle`. Its number is its position among the texts of the tree, from
left to right. `conditions_open` of a job is a set of bits: bit n stands for condition n, and a job waits while one is
set. Invariant: once a group is met, its other conditions are closed with it.

A condition about something that happens (an event, an end, a file) is met once and stays met. One about the state of
the host (`idle`, `charging`) counts only if it holds when everything else is met.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any

from msgspec import Struct

from stoker.core.errors import InvalidParams
from stoker.core.units import span

MOST_CONDITIONS = 32
MOST_LEVELS = 8
MAX_SHOWN = 80
MAX_PATH_BYTES = 4_095  # PATH_MAX of Linux, without its NUL
MAX_NAME_BYTES = 255


class ConditionGroup(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """A group of conditions, given as `all` or as `any`: met when all of them are met, or one is."""

    all: tuple[str | ConditionGroup, ...] = ()
    any: tuple[str | ConditionGroup, ...] = ()


Tree = str | ConditionGroup


class ConditionKind(StrEnum):
    EVENT = "event"
    JOB = "job"
    WORKFLOW = "workflow"
    FILE = "file"
    FILE_CHANGED = "file-changed"
    IDLE = "idle"
    CHARGING = "charging"


OF_FILES = frozenset({ConditionKind.FILE, ConditionKind.FILE_CHANGED})
OF_HOST = frozenset({ConditionKind.IDLE, ConditionKind.CHARGING})
NUMBER = re.compile(r"[1-9][0-9]{0,17}\Z")
ABSOLUTE = re.compile(r"/[^\0]*\Z")
NOTHING = re.compile(r"\Z")
TARGETS = {
    ConditionKind.EVENT: re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}\Z"),
    ConditionKind.JOB: NUMBER,
    ConditionKind.WORKFLOW: NUMBER,
    ConditionKind.FILE: ABSOLUTE,
    ConditionKind.FILE_CHANGED: ABSOLUTE,
    ConditionKind.IDLE: NOTHING,
    ConditionKind.CHARGING: NOTHING,
}
# By kind: the code of the blocker, and the command that shows more.
BLOCKERS = {
    ConditionKind.EVENT: ("event", "stoker event emit {}"),
    ConditionKind.JOB: ("needs", "stoker why {}"),
    ConditionKind.WORKFLOW: ("needs", "stoker workflow show {}"),
    ConditionKind.FILE: ("file", "stoker status"),
    ConditionKind.FILE_CHANGED: ("file", "stoker status"),
    ConditionKind.IDLE: ("idle", "stoker status"),
    ConditionKind.CHARGING: ("charging", "stoker status"),
}
TEMPLATE = "event:x"  # is checked in place of a template
FORMS = "event:NAME, job:ID, workflow:ID, file:/PATH, file-changed:/PATH, idle or charging"
EVENT_HINT = "letters, digits and . _ : -, at most 64, the first a letter or digit"
PATH_HINT = "an absolute path, at most 4095 bytes and 255 for each name in it: file:/srv/in/ready"
# By kind: what a wrong target is not, and what to write.
MISTAKES = {
    ConditionKind.EVENT: ("not the name of an event", EVENT_HINT),
    ConditionKind.JOB: ("not the id of a job", "job:ID, as in job:7"),
    ConditionKind.WORKFLOW: ("not the id of a workflow", "workflow:ID, as in workflow:7"),
    ConditionKind.FILE: ("not a path that can be watched", PATH_HINT),
    ConditionKind.FILE_CHANGED: ("not a path that can be watched", PATH_HINT),
    ConditionKind.IDLE: ("not allowed after idle", "write idle alone; [idle] in the settings says when the host is"),
    ConditionKind.CHARGING: ("not allowed after charging", "write charging alone"),
}


def kind_of(condition: str) -> ConditionKind:
    return ConditionKind(condition.partition(":")[0])


def target_of(condition: str) -> str:
    return condition.partition(":")[2]


def texts(tree: Tree | None) -> list[str]:
    """The conditions of a tree by their numbers."""
    return [] if tree is None else list(_texts(tree))


def _texts(tree: Tree) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    else:
        for member in (*tree.all, *tree.any):
            yield from _texts(member)


def changes_awaited(trees: Iterable[Tree]) -> list[str]:
    """The conditions about changes of files, each once: their present state must be known before the job is stored."""
    changes = [text for tree in trees for text in _texts(tree) if kind_of(text) is ConditionKind.FILE_CHANGED]
    return list(dict.fromkeys(changes))


def all_open(tree: Tree | None) -> int:
    return (1 << len(texts(tree))) - 1


def open_after(tree: Tree, open_before: int, number: int) -> int:
    """The bits that stay open once condition `number` is met."""
    return _open(tree, open_before & ~(1 << number), 0)[0]


def _open(tree: Tree, unmet: int, first: int) -> tuple[int, int]:
    """The open bits of a tree whose conditions begin with number `first`, and the number of the next condition."""
    if isinstance(tree, str):
        return unmet & (1 << first), first + 1
    members = []
    for member in (*tree.all, *tree.any):
        bits, first = _open(member, unmet, first)
        members.append(bits)
    if tree.any and not all(members):
        return 0, first
    return sum(members), first


def met_with_host(tree: Tree, open_bits: int, holding: Collection[str]) -> list[int]:
    """The open conditions about the host, if with them all conditions of the job are met; otherwise empty.

    `holding`: those that hold now.
    """
    host = [n for n, text in enumerate(texts(tree)) if is_open(open_bits, n) and text in holding]
    met = sum(1 << number for number in host)
    return host if host and not _open(tree, open_bits & ~met, 0)[0] else []


def awaited(tree: Tree | None, open_bits: int) -> list[str]:
    """The open conditions about files and the host, which must be watched."""
    return [text for text in open_texts(tree, open_bits) if kind_of(text) in OF_FILES | OF_HOST]


def is_open(open_bits: int, number: int) -> bool:
    return bool(open_bits >> number & 1)


def open_texts(tree: Tree | None, open_bits: int) -> list[str]:
    return [text for number, text in enumerate(texts(tree)) if is_open(open_bits, number)]


def in_words(tree: Tree, open_bits: int) -> str:
    """The open part of a tree, as in `event:deploy and any of (job:7, event:now)`."""
    return _words(tree, open_bits, 0)[0]


def _words(tree: Tree, open_bits: int, first: int) -> tuple[str, int]:
    if isinstance(tree, str):
        return (tree if is_open(open_bits, first) else ""), first + 1
    parts = []
    for member in (*tree.all, *tree.any):
        words, first = _words(member, open_bits, first)
        parts.append(words)
    parts = [part for part in parts if part]
    several = len(parts) > 1 and tree.any
    return (f"any of ({', '.join(parts)})" if several else " and ".join(parts)), first


def why_open(
    tree: Tree, open_bits: int, since: int, now: int, seen: Mapping[str, str]
) -> tuple[str, str, str, dict[str, Any]]:
    """Why a job waits: the code of its first open condition, a sentence, the next command, and the facts.

    `seen`: by condition, how that stands now, in words.
    """
    first, *_ = ahead = open_texts(tree, open_bits)
    message = f"has waited {span(max(0, now - since))} for {in_words(tree, open_bits)}"
    now_seen = {text: seen[text] for text in ahead if text in seen}
    if now_seen:
        message += f": {'; '.join(now_seen.values())}"
    code, command = BLOCKERS[kind_of(first)]
    details: dict[str, Any] = {"conditions": ahead, "since": since}
    return code, message, command.format(target_of(first)), details | ({"seen": now_seen} if now_seen else {})


def check(tree: Tree, *, templates: bool = False) -> None:
    """Raises InvalidParams if a condition or a group is wrong. `templates`: a text with `{{` is checked once filled."""
    _check(filled(tree, lambda text: TEMPLATE if "{{" in text else text) if templates else tree, "wait_for", 1)
    conditions = texts(tree)
    if len(conditions) > MOST_CONDITIONS:
        problem = f"wait_for: {len(conditions)} conditions; the limit is {MOST_CONDITIONS}"
        raise InvalidParams(problem, path="wait_for", hint="wait for one event, and emit it when the others are met")
    twice = [text for index, text in enumerate(conditions) if text in conditions[:index]]
    if twice:
        raise InvalidParams(f"wait_for: {twice[0]} is named twice", path="wait_for", hint="name it once")


def filled(tree: Tree, fill: Callable[[str], str]) -> Tree:
    """The tree with each condition replaced."""
    if isinstance(tree, str):
        return fill(tree)
    return ConditionGroup(
        all=tuple(filled(member, fill) for member in tree.all), any=tuple(filled(member, fill) for member in tree.any)
    )


def _check(tree: Tree, path: str, level: int) -> None:
    if isinstance(tree, str):
        _check_text(tree, path)
        return
    if bool(tree.all) == bool(tree.any):
        hint = '{"all": ["event:a", "event:b"]} or {"any": [...]}, one inside the other where both are meant'
        raise InvalidParams(f"{path}: a group has either `all` or `any`, with members", path=path, hint=hint)
    if level > MOST_LEVELS:
        raise InvalidParams(f"{path}: more than {MOST_LEVELS} levels of groups", path=path, hint="use fewer groups")
    name = "all" if tree.all else "any"
    for index, member in enumerate(tree.all or tree.any):
        _check(member, f"{path}.{name}[{index}]", level + 1)


def _check_text(text: str, path: str) -> None:
    kind, _, target = text.partition(":")
    if kind not in _KINDS:
        raise InvalidParams(f"{path}: {_shown(text)} is not a condition", path=path, hint=f"write {FORMS}")
    if not is_well_formed(text):
        problem, hint = MISTAKES[ConditionKind(kind)]
        raise InvalidParams(f"{path}: {_shown(target)} is {problem}", path=path, hint=hint)


def is_well_formed(text: str) -> bool:
    """Whether the text is a condition."""
    kind, colon, target = text.partition(":")
    if kind not in _KINDS or (colon and not target):  # `idle:` has a target, an empty one, that `idle` has not
        return False
    return bool(TARGETS[ConditionKind(kind)].match(target)) and (kind not in OF_FILES or _is_short(target))


def _is_short(path: str) -> bool:
    """Whether the kernel takes a path of this length."""
    names = path.encode().split(b"/")
    return len(path.encode()) <= MAX_PATH_BYTES and max(map(len, names)) <= MAX_NAME_BYTES


_KINDS: Collection[str] = {kind.value for kind in ConditionKind}


def _shown(text: str) -> str:
    return repr(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}...")
