"""The options and arguments of a command, as a literal from which it is parsed, explained and completed.

Owns the grammar (`--opt value`, `--opt=value`, `-n5`, `--` ends options) and the help text. An option cannot be
abbreviated: a later option could make the abbreviation in a script ambiguous.
argparse would take a third of the time of a bare Python start for forty options, and the completions are generated from
these literals too.
"""

from __future__ import annotations

from stoker.core.errors import UsageError

TYPE_CHECKING = False  # `typing` alone would be a tenth of the time of `stoker submit`
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    # The parsed command line by `Option.to`: None, False or [] where an option was not given. `words` holds the
    # positional arguments, `typed` each option as it was spelled, by `Option.to`.
    Given = dict[str, Any]
else:
    Given = dict

HELP_COLUMNS = 100
NARROWEST_HELP = 60
DESCRIPTION_COLUMN = 34  # of the help, where the descriptions of options begin
# Options that people expect, and what to do instead.
UNKNOWN_HERE = {
    "--hold": "pause its queue first: stoker queue pause NAME; or: stoker hold ID, and stoker release ID",
    "--secret": "only submit and run take it: a workflow has [secrets] in its file, and schedules keep no secrets",
}
# The names of options in other tools.
NAMES_ELSEWHERE = {
    "--group": "--queue",
    "--delay": "--run-at",
    "--retries": "--max-attempts",
    "--depends": "--after",
    "--cwd": "--working-dir",
    "--chdir": "--working-dir",
    "--setenv": "--env",
    "--tail": "--lines",
}


class Option:
    """One option. Without a metavar it is a flag; `many` may be repeated and collects a list.

    `choices` are the only values that it takes; with `listed` several of them, separated by commas.
    """

    __slots__ = ("choices", "convert", "description", "listed", "many", "metavar", "names", "to")

    def __init__(
        self,
        names: str,
        metavar: str | None,
        description: str,
        *,
        convert: Callable[[str], Any] = str,
        to: str | None = None,
        many: bool = False,
        choices: tuple[str, ...] = (),
        listed: bool = False,
    ) -> None:
        self.names = names.split()
        self.metavar = metavar
        self.description = description
        self.convert = convert
        self.to = to or self.names[-1].lstrip("-").replace("-", "_")
        self.many = many
        self.choices = choices
        self.listed = listed

    def absent(self) -> Any:
        if self.many:
            return []
        return None if self.metavar else False

    def read(self, text: str, given: Given) -> None:
        """Put the converted value in `given`; a conversion error names the option."""
        words = text.split(",") if self.listed else [text]
        for word in words if self.choices else ():
            if word not in self.choices:
                raise UsageError(f"{self.names[-1]}: {word!r} is not one of {', '.join(self.choices)}")
        try:
            value = [self.convert(word) for word in words] if self.listed else self.convert(text)
        except UsageError as error:
            raise UsageError(f"{self.names[-1]}: {error.message}", hint=error.hint) from None
        if self.many:
            given[self.to].append(value)
        else:
            given[self.to] = value
        given["typed"].setdefault(self.to, []).append((self.names[-1], text))


def path(text: str) -> str:
    if not text:
        raise UsageError("an empty path", hint="name a path, or leave the option out")
    return text


JSON = Option("--json", None, "print JSON")
STATE_DIR = Option("--state-dir", "DIR", "the state directory, as given to stokerd")
REASON = Option("--reason", "TEXT", "why, for the history of changes")
RAW = Option("--raw", None, "on a terminal, pass on every control character, not only colours and progress bars")
COMMON = (
    Option(
        "--socket",
        "PATH",
        "the daemon's socket (default: see `stoker config path`)",
        convert=path,
    ),
    Option("--debug", None, "show the traceback of an internal error"),
    Option("-h --help", None, "show this help"),
)


class Command:
    """A decorator of the function that carries a command out, which returns its exit status, or None for 0.

    `words` names the positional arguments, as the usage prints them: `[X]` may be left out, `X…` may be repeated.
    `least` and `most` are for commands that accept other numbers of them. `greedy`: the first positional argument ends
    the options, as in `stoker run make -j4`. The help prints the docstring of the function below the summary.
    """

    run: Callable[[Given], int | None]

    def __init__(
        self,
        *,
        words: str = "",
        least: int | None = None,
        most: int | None = None,
        options: Sequence[Option] = (),
        examples: Sequence[str] = (),
        greedy: bool = False,
    ) -> None:
        named = [word for word in words.split() if word != "--"]
        self.words = words
        self.least = sum(not word.startswith("[") for word in named) if least is None else least
        self.most = None if greedy or "…" in words else most or len(named)
        self.options = (*options, *COMMON)
        self.examples = examples
        self.greedy = greedy

    def __call__(self, run: Callable[[Given], int | None]) -> Command:
        self.run = run
        return self

    def parse(self, arguments: Sequence[str]) -> Given:
        """Raises UsageError. Stops at `--help`."""
        by_name = {name: option for option in self.options for name in option.names}
        given: Given = {option.to: option.absent() for option in self.options}
        words: list[str] = []
        given["words"] = words
        given["typed"] = {}
        rest = iter(arguments)
        for argument in rest:
            if argument == "--":
                words.extend(rest)
            elif argument == "-" or not argument.startswith("-"):
                words.append(argument)
                if self.greedy:
                    words.extend(rest)
            else:
                _read_option(argument, rest, by_name, given)
                if given["help"]:
                    return given
        return given

    def check_words(self, given: Given) -> None:
        count = len(given["words"])
        if count < self.least:
            raise UsageError(f"missing {self.words}")
        if self.most is not None and count > self.most:
            raise UsageError(f"unexpected argument {given['words'][self.most]!r}")

    def explain(self, name: str, summary: str, columns: int = HELP_COLUMNS) -> str:
        """The help text; descriptions are wrapped to `columns`."""
        import textwrap  # noqa: PLC0415 - only for help

        width = max(NARROWEST_HELP, min(columns, HELP_COLUMNS))
        more = " ".join((self.run.__doc__ or "").split())
        lines = [f"usage: stoker {name} [OPTION…] {self.words}".rstrip(), "", *textwrap.wrap(summary, width)]
        lines += ["", *textwrap.wrap(more, width)] if more else []
        lines += ["", "options:"]
        for option in self.options:
            lines += described(_signature(option), _description(option), DESCRIPTION_COLUMN, width)
        lines += ["", "examples:", *(f"  {example}" for example in self.examples)]
        return "\n".join(lines)


def described(term: str, text: str, indent: int, columns: int) -> list[str]:
    """The lines of a term and of its description, which is wrapped beside it, or below a long term."""
    import textwrap  # noqa: PLC0415 - only for help

    width = max(NARROWEST_HELP, min(columns, HELP_COLUMNS)) - indent
    first, *others = [" " * indent + line for line in textwrap.wrap(text, width)]
    head = f"  {term}"
    return [head, first, *others] if len(head) >= indent else [head + first[len(head) :], *others]


def _read_option(argument: str, rest: Iterator[str], by_name: dict[str, Option], given: Given) -> None:
    name, value = _split(argument)
    option = by_name.get(name)
    if option is None:
        raise UsageError(f"unknown option {name}", hint=_hint_for(name, by_name))
    if option.metavar is None:
        if value is not None:
            raise UsageError(f"{name} takes no value")
        given[option.to] = True
        return
    if value is None:
        value = next(rest, None)
    if value is None:
        raise UsageError(f"{name} needs a value: {name} {option.metavar}")
    option.read(value, given)


def _hint_for(name: str, by_name: dict[str, Option]) -> str | None:
    if name in UNKNOWN_HERE:
        return UNKNOWN_HERE[name]
    if NAMES_ELSEWHERE.get(name) in by_name:
        return f"did you mean {NAMES_ELSEWHERE[name]}?"
    from stoker.core.similar_names import did_you_mean  # noqa: PLC0415 - only after a misspelt name

    return did_you_mean(name, by_name.keys() - {"--help"})


def _split(argument: str) -> tuple[str, str | None]:
    if argument.startswith("--"):
        name, equals, value = argument.partition("=")
        return name, value if equals else None
    return argument[:2], argument[2:] or None


def _signature(option: Option) -> str:
    names = ", ".join(option.names)
    value = option.metavar if option.listed else "|".join(option.choices) or option.metavar
    return f"{names} {value}" if value else names


def _description(option: Option) -> str:
    return f"{option.description}: {', '.join(option.choices)}" if option.listed else option.description


def reason_of(given: Given) -> dict[str, str]:
    """The field `reason` of a request, if --reason was typed."""
    return {"reason": given["reason"]} if given["reason"] else {}
