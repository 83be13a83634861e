"""docs/reference.md: methods, errors, exit codes and variables, from the tables of the code.

`python -m tests.support.reference_page` writes the file; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from stoker.core import errors
from stoker.core.errors import StokerError
from stoker.rpc.answer_types import ANSWERS
from stoker.rpc.methods import METHODS
from stoker.rpc.table import MethodKind
from tests.support.manual_pages import ENVIRONMENT, OF_A_JOB, exit_codes

PAGE = Path(__file__).parents[2] / "docs" / "reference.md"

HEAD = """\
# Reference

Settings: [config/stoker.toml](../config/stoker.toml) has every key with its default and its meaning, as
`stoker.toml(5)` does. Commands: `stoker --help`, the `--help` of a command, or `stoker(1)`. Flow files:
`stoker-workflow(5)`. Events of the log: [events.md](events.md).

## Methods

The socket speaks JSON-RPC 2.0, one JSON object a line. `stoker schema protocol` prints the types of parameters and
answers. A parameter in bold has to be given. A method that streams sends notifications after its answer, until the
client hangs up or one of them has `"end": true`.
"""

KINDS = {
    MethodKind.CALL: "changes state",
    MethodKind.DIRECT: "changes the daemon",
    MethodKind.READ: "reads",
    MethodKind.WAIT: "waits",
    MethodKind.STREAM: "streams",
}


def page() -> str:
    return "\n".join([HEAD, *_methods(), *_errors(), *_listed("Exit codes", exit_codes()), *_variables()]) + "\n"


def _methods() -> Iterator[str]:
    yield "| method | parameters | it | answers with |\n|---|---|---|---|"
    for name, method in METHODS.items():
        fields = msgspec.structs.fields(method.params)
        params = ", ".join(f"**{each.encode_name}**" if each.required else each.encode_name for each in fields)
        answers = " or ".join(getattr(kind, "__name__", "object") for kind in ANSWERS[name])
        yield f"| `{name}` | {params} | {KINDS[method.kind]} | {answers.replace('dict', 'object')} |"
    yield ""


def _errors() -> Iterator[str]:
    yield "## Errors\n"
    yield "`code` is in `error.data` of an answer. With *again* the same request may succeed later.\n"
    yield "| code | exit code of `stoker` | again | it means |\n|---|---|---|---|"
    for kind in sorted(_kinds(StokerError), key=lambda kind: kind.code):
        meaning = (kind.__doc__ or kind.code.replace("_", " ")).partition("\n")[0].replace("|", "\\|")
        yield f"| `{kind.code}` | {kind.exit_status} | {'again' if kind.transient else ''} | {meaning} |"
    yield ""


def _kinds(base: type[StokerError]) -> Iterator[type[StokerError]]:
    """The errors that have a code of their own."""
    for kind in base.__subclasses__():
        if kind.__module__ == errors.__name__ and "code" in vars(kind):
            yield kind
        yield from _kinds(kind)


def _variables() -> Iterator[str]:
    yield from _listed("Variables of the client", {f"`{name}`": text for name, text in ENVIRONMENT.items()})
    yield from _listed("Variables of a job", {f"`{name}`": text for name, text in OF_A_JOB.items()})


def _listed(title: str, rows: dict[str, str]) -> Iterable[str]:
    return [f"## {title}\n", "| | |\n|---|---|", *(f"| {name} | {text} |" for name, text in rows.items()), ""]


if __name__ == "__main__":
    PAGE.write_text(page())
