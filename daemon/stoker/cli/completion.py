"""`stoker completion bash|zsh|fish`: scripts made from the table of commands and the options of each.

Owns the three dialects. Refuses a list of its own: a command or option that exists is completed, one that
does not is not. The scripts ask no daemon; completing must be instant.
"""

from __future__ import annotations

from stoker.cli import main, render
from stoker.cli.options import COMMON, Command, command
from stoker.core.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stoker.cli.options import Given, Option

BASH = """\
# bash completion of stoker; put this in ~/.bashrc:  source <(stoker completion bash)
_stoker() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} name= part
    for part in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        [[ $part == -- ]] && {{ COMPREPLY=($(compgen -c -f -- "$word")); return; }}
        [[ $part == -* ]] && continue
        case "${{name:+$name }}$part" in {names}) name="${{name:+$name }}$part";; esac
    done
    case "$name $previous" in
{choices}
    esac
    case "$name" in
{commands}
    esac
    [[ $word != -* && ${{#COMPREPLY[@]}} -eq 0 ]] && COMPREPLY=($(compgen -f -- "$word"))
}}
complete -F _stoker stoker"""

ZSH = """\
#compdef stoker
# zsh completion of stoker; put this in ~/.zshrc:  source <(stoker completion zsh)
autoload -U +X compinit bashcompinit
(( $+functions[compdef] )) || compinit
bashcompinit
{bash}"""


@command(
    words="bash|zsh|fish",
    least=1,
    most=1,
    examples=("source <(stoker completion bash)", "stoker completion fish > ~/.config/fish/completions/stoker.fish"),
)
def completion(given: Given) -> int:
    (shell,) = given["words"]
    if shell not in SHELLS:
        raise UsageError(f"no completions for {shell!r}", hint=f"there are: {', '.join(SHELLS)}")
    render.line(SHELLS[shell]())
    return 0


def _commands() -> Iterator[tuple[str, str, Command]]:
    """Name, summary and Command of every row; those that read words of their own."""
    for rows in main.COMMANDS.values():
        for name, (target, summary) in rows.items():
            yield name, summary, main.load(target)


def bash() -> str:
    rows = list(_commands())
    names = sorted({name for name, _, _ in rows} | {name.split()[0] for name, _, _ in rows})
    replies = [("", _next_words("", names) + _names(COMMON))]
    replies += [(name, _next_words(name, names)) for name in names if name not in {row[0] for row in rows}]
    replies += [(name, _next_words(name, names) + _own_words(asked) + _names(asked.options)) for name, _, asked in rows]
    commands = [_bash_case(name, words) for name, words in replies]
    choices = [
        _bash_case(f"{name} {option.names[-1]}", option.choices, "; return")
        for name, _, asked in rows
        for option in asked.options
        if option.choices
    ]
    return BASH.format(
        names="|".join(f'"{name}"' for name in names), choices="\n".join(choices), commands="\n".join(commands)
    )


def _bash_case(pattern: str, words: Sequence[str], then: str = "") -> str:
    return f'        "{pattern}") COMPREPLY=($(compgen -W "{" ".join(words)}" -- "$word")){then};;'


def zsh() -> str:
    return ZSH.format(bash=bash())


def fish() -> str:
    lines = ["# fish completion of stoker", "complete -c stoker -f"]
    for name, summary, asked in _commands():
        first, _, second = name.partition(" ")
        here = f"__fish_seen_subcommand_from {first}"
        if second:
            lines.append(f"complete -c stoker -n '{here}' -a {second} -d {_quoted(summary)}")
            here = f"{here}; and __fish_seen_subcommand_from {second}"
        else:
            lines.append(f"complete -c stoker -n __fish_use_subcommand -a {first} -d {_quoted(summary)}")
        lines += [f"complete -c stoker -n '{here}' {_fish_option(option)}" for option in asked.options]
        lines += [f"complete -c stoker -n '{here}' -a {word}" for word in _own_words(asked)]
    return "\n".join(lines)


def _fish_option(option: Option) -> str:
    names = [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names]
    value = []
    if option.choices:
        value = [f"-xa {_quoted(' '.join(option.choices))}"]
    elif option.metavar:
        value = ["-rF" if "FILE" in option.metavar or option.metavar in ("DIR", "PATH") else "-x"]
    return " ".join([*names, *value, f"-d {_quoted(option.description)}"])


def _next_words(name: str, names: list[str]) -> list[str]:
    """The words that may follow `name` in the names of commands."""
    start = f"{name} " if name else ""
    behind = [other.removeprefix(start) for other in names if other.startswith(start)]
    return [word for word in behind if word and " " not in word]


def _own_words(asked: Command) -> list[str]:
    """`bash|zsh|fish`: words that are a closed list."""
    return asked.words.split("|") if "|" in asked.words else []


def _names(options: tuple[Option, ...]) -> list[str]:
    return [option.names[-1] for option in options]


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}
