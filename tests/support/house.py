"""The rules of the house as functions: the source of one file in, complaints out.

Owns every rule that neither ruff, mypy nor import-linter checks. The table in tests/test_house.py says which files each
rule is for, and has a bad sample for each.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LONGEST_FUNCTION = 70
LONGEST_FILE = 400
LONGEST_TEST_NAME = 80
DOCSTRING_LINES = range(3, 13)
NOT_A_NOUN = {"utils", "util", "helpers", "helper", "common", "manager", "misc", "base_utils", "shared"}
TEST_NAME = re.compile(r"test_\w+_when_\w+_then_\w+")
STATEMENTS_OF_TABLES = (ast.Assign, ast.AnnAssign, ast.Return, ast.Call)
LITERALS = (ast.Dict, ast.Set, ast.List, ast.Tuple)
SQL = re.compile(
    r"\b(SELECT\s.+\sFROM\s|INSERT\s+INTO\s|INSERT\s+OR\s|UPDATE\s+\w+\s+SET\s|DELETE\s+FROM\s|CREATE\s+(TABLE|INDEX)\s|PRAGMA\s)",
    re.DOTALL,
)
MIGRATION_NAME = re.compile(r"(\d{4})_[a-z]+(_[a-z0-9]+)+\.sql")
RELEASE = re.compile(r"## \[(Unreleased|\d+\.\d+\.\d+)\]( - \d{4}-\d{2}-\d{2})?")
KINDS_OF_CHANGE = {"### Added", "### Changed", "### Deprecated", "### Removed", "### Fixed", "### Security"}

# Words that make a sentence a riddle: a docstring begins with the thing that it is about, and the actor has a name.
RIDDLE = re.compile(r"(What|Who|Whoever|Whatever|Such|Nobody|Somebody)\b(?!.*\?$)")
RIDDLING_WORDS = re.compile(r"\b(nobody|somebody|whoever|told|says so|is said|want of)\b", re.IGNORECASE)
RIDDLING_NAME = re.compile(r"_(nobody|somebody|told|says?_so|is_said)(_|$)")
COMMENT = re.compile(r"^(?:[^\"'\n]*\s)?# (.+)$", re.MULTILINE)

STARTS = {"create_task", "ensure_future", "TaskGroup", "run_coroutine_threadsafe", "Thread", "ThreadPoolExecutor"}
# Functions that start a task or thread and wait for it, answer a client with its result, or make it an outcome.
AWAITED_THERE = {
    "_start", "_recover", "_until_done",  # daemon.py: the loop of job state, recovery, and the wait for a drain
    "_until_empty",  # upkeep/drain.py
    "_chunks",  # service/logs.py
    "start",  # executors/in_process.py: the error of a handler is the outcome of its attempt
    "changed",  # process/attempt_logs.py
    "_until_ended",  # process/stopping.py
    "_future_of", "begin",  # rpc/calls.py: the client gets the error
    "_begin_next",  # rpc/connection.py: the connection ends with the error
    "close",  # telemetry/otel_sdk.py: it waits for the thread
    "run_apart",  # host/threads.py: a future gets the error
    "start_task",  # cli/pages/tasks.py: it reports the error
    "_start_reading",  # rpc/async_client.py: the calls that wait get the error
    "_reporting_thread",  # cli/screen/background.py: the screen raises its error
    "_serve_apart",  # telemetry/metrics_port.py: the server goes on after the error of a request
    "_start_thread",  # telemetry/log_writer.py: it counts the lines that it loses
}  # fmt: skip

Node = TypeVar("Node", bound=ast.AST)
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Source:
    """The text of one file. It is parsed and walked once, however many rules read it."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def module(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def _by_type(self) -> dict[type[ast.AST], list[ast.AST]]:
        nodes: dict[type[ast.AST], list[ast.AST]] = {}
        for node in ast.walk(self.module):
            nodes.setdefault(type(node), []).append(node)
        return nodes

    def nodes(self, *types: type[Node]) -> Iterator[Node]:
        """Every node of these types."""
        for kind in types:
            yield from cast("list[Node]", self._by_type.get(kind, []))

    @property
    def functions(self) -> Iterator[Function]:
        return self.nodes(ast.FunctionDef, ast.AsyncFunctionDef)

    @property
    def calls(self) -> Iterator[ast.Call]:
        return self.nodes(ast.Call)


def long_functions(source: Source) -> Iterator[str]:
    for function in source.functions:
        lines = (function.end_lineno or function.lineno) - function.lineno + 1
        if lines > LONGEST_FUNCTION:
            yield f"{function.name} has {lines} lines; {LONGEST_FUNCTION} is the most"


def long_files(source: Source) -> Iterator[str]:
    lines = source.text.count("\n")
    if lines > LONGEST_FILE:
        yield f"{lines} lines; past {LONGEST_FILE} split by noun"


def missing_docstrings(source: Source) -> Iterator[str]:
    lines = (ast.get_docstring(source.module) or "").splitlines()
    only_a_name = len(source.module.body) <= 1
    if len(lines) not in DOCSTRING_LINES and not (only_a_name and lines):
        yield f"the module docstring has {len(lines)} lines; 3 to 12 say what it owns and what it refuses"


def foreign_imports(source: Source) -> Iterator[str]:
    """The launcher runs as `python -I -S`: it can import the standard library and the files beside it."""
    for name in _imported(source):
        if name not in sys.stdlib_module_names and not name.startswith("./"):
            yield f"imports {name}, which is neither beside it nor in the standard library"


def imports_beyond_the_library(source: Source) -> Iterator[str]:
    """The client loads the errors at each start: they need the standard library and nothing else."""
    for name in _imported(source):
        if name not in sys.stdlib_module_names:
            yield f"imports {name}, which is not in the standard library"


def prints(source: Source) -> Iterator[str]:
    for call in source.calls:
        if _dotted(call.func) == "print":
            yield f"line {call.lineno} prints; only cli/kit/render.py does"


def loose_tasks(source: Source) -> Iterator[str]:
    """The error of a task or thread that is not awaited is lost. The functions on the list were checked."""
    for function in source.functions:
        called = {_dotted(node.func).split(".")[-1] for node in ast.walk(function) if isinstance(node, ast.Call)}
        # Where nothing can be awaited, the future of a call in a thread is left to itself, too.
        starts = STARTS if isinstance(function, ast.AsyncFunctionDef) else STARTS | {"run_in_executor"}
        if called & starts and function.name not in AWAITED_THERE:
            yield f"{function.name} starts a task or thread by itself; see background/"


def sql(source: Source) -> Iterator[str]:
    for node in source.nodes(ast.Constant):
        if isinstance(node.value, str) and SQL.search(node.value):
            yield f"line {node.lineno} says SQL; only store/ does"


def sleeps(source: Source) -> Iterator[str]:
    for call in source.calls:
        called = _dotted(call.func)
        yields_only = called == "asyncio.sleep" and [ast.unparse(argument) for argument in call.args] == ["0"]
        if called.split(".")[-1] == "sleep" and not yields_only:
            yield f"line {call.lineno} sleeps; wait for a fact (tests/support/facts.py)"


def splitlines(source: Source) -> Iterator[str]:
    """`str.splitlines` ends a line at eleven characters; in text from outside only \\n ends one."""
    for call in source.calls:
        if _dotted(call.func).split(".")[-1] == "splitlines":
            yield f"line {call.lineno} splits at more than line ends; split('\\n')"


def unspoken_test_names(source: Source) -> Iterator[str]:
    for function in source.functions:
        if function.name.startswith("test_") and not TEST_NAME.fullmatch(function.name):
            yield f"{function.name} is not test_<what>_when_<condition>_then_<expected>"


def long_test_names(source: Source) -> Iterator[str]:
    for function in source.functions:
        if function.name.startswith("test_") and len(function.name) > LONGEST_TEST_NAME:
            yield f"{function.name} has {len(function.name)} characters; {LONGEST_TEST_NAME} is the most"


def riddles(source: Source) -> Iterator[str]:
    """Docstrings, comments and names of tests that use a word of the closed lists of riddles."""
    texts = [ast.get_docstring(node) for node in (source.module, *source.nodes(ast.ClassDef), *source.functions)]
    for text in filter(None, texts):
        if match := RIDDLE.match(text) or RIDDLING_WORDS.search(text):
            yield f"{text.splitlines()[0]!r}: say what it is, instead of {match[0]!r}"
    for comment in COMMENT.findall(source.text):
        if match := RIDDLING_WORDS.search(comment):
            yield f"{comment!r}: name the thing, instead of {match[0]!r}"
    for function in source.functions:
        if function.name.startswith("test_") and RIDDLING_NAME.search(function.name):
            yield f"{function.name} does not name what it expects"


def names_that_are_no_noun(path: str) -> Iterator[str]:
    for part in path.removesuffix(".py").split("/"):
        if part in NOT_A_NOUN:
            yield f"{part} says nothing about what it owns"


def class_names(source: Source) -> list[str]:
    return [node.name for node in source.nodes(ast.ClassDef)]


def shared_class_names(names: Iterable[str]) -> Iterator[str]:
    """A class name that the product uses twice."""
    yield from (f"{name} names {count} classes" for name, count in Counter(names).items() if count > 1)


def skipped_formatting(source: Source) -> Iterator[str]:
    """`# fmt: skip` is for tables of data: a literal that is named or returned, a row's columns, a test's cases."""
    if "# fmt: skip" not in source.text:
        return
    tables = {getattr(node, "end_lineno", 0) for node in source.nodes(*STATEMENTS_OF_TABLES) if _is_table(node)}
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type == tokenize.COMMENT and token.string == "# fmt: skip" and token.start[0] not in tables:
            yield f"line {token.start[0]} is not formatted by ruff, and is no table of data"


def _is_table(node: ast.AST) -> bool:
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
        return True
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.Return):
        return isinstance(node.value, LITERALS)
    return isinstance(node, ast.Call) and _dotted(node.func) == "pytest.mark.parametrize"


def migration_names(listing: str) -> Iterator[str]:
    """`listing`: the names in migrations/, one a line, sorted."""
    for number, name in enumerate(listing.splitlines(), start=1):
        match = MIGRATION_NAME.fullmatch(name)
        if match is None:
            yield f"{name} is not NNNN_verb_noun.sql"
        elif int(match[1]) != number:
            yield f"{name} should be number {number:04}"


def migration_heads(source: Source) -> Iterator[str]:
    if not source.text.startswith("-- "):
        yield "the first line does not say why, in a comment"


def changelog(source: Source) -> Iterator[str]:
    """Keep a Changelog 1.1: Unreleased first, then dated versions, under them only the six kinds of change."""
    lines = source.text.splitlines()
    releases = [line for line in lines if line.startswith("## ")]
    if lines[:1] != ["# Changelog"]:
        yield "the title is not `# Changelog`"
    if releases[:1] != ["## [Unreleased]"]:
        yield "the first section is not `## [Unreleased]`"
    for line in releases:
        match = RELEASE.fullmatch(line)
        if match is None or (match[1] == "Unreleased") == bool(match[2]):
            yield f"{line!r} is not `## [1.2.3] - 2026-01-31`"
    for line in lines:
        if line.startswith("### ") and line not in KINDS_OF_CHANGE:
            yield f"{line!r} is none of the six kinds of change"


def _imported(source: Source) -> Iterator[str]:
    """Top-level names of what is imported; files beside the module (`from .frames import …`) as `./frames`."""
    for node in source.nodes(ast.Import):
        yield from (alias.name.split(".")[0] for alias in node.names)
    for origin in source.nodes(ast.ImportFrom):
        start = "./" if origin.level == 1 else "." * origin.level
        yield start + (origin.module or "").split(".")[0]


def _dotted(node: ast.expr) -> str:
    """`a.b.c` of a name or an attribute; empty for other expressions, such as a call."""
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""
