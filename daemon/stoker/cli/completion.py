"""`stoker completion bash|zsh|fish`: scripts generated from the table of commands and their options.

Owns the three dialects. The scripts hold commands, options and closed lists; they ask the daemon for ids and names
(completion_words.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stoker.cli import completion_words, main
from stoker.cli.kit import render
from stoker.cli.kit.parser import COMMON, Command, Given, Option
from stoker.core.errors import UsageError

BASH = """\
# bash completion of stoker and stokerd; put this in ~/.bashrc:  source <(stoker completion bash)
_stoker() {{
    # bash breaks words at : and @, which names may contain: `typed` has them whole, and completes what is behind these.
    local part word= head=
    local -a typed=()
    for part in "${{COMP_WORDS[@]:0:$((COMP_CWORD+1))}}"; do
        if [[ ${{#typed[@]}} -gt 0 && ( $part == [:@] || $word == *[:@] ) ]]; then
            typed[${{#typed[@]}}-1]+=$part
        else
            typed+=("$part")
        fi
        word=${{typed[${{#typed[@]}}-1]}}
    done
    [[ $word == "${{COMP_WORDS[COMP_CWORD]}}" ]] || head=${{word%"${{word##*[:@]}}"}}
    _stoker_words
    COMPREPLY=("${{COMPREPLY[@]#"$head"}}")
}}
_stoker_words() {{
    local count=${{#typed[@]}}
    local previous=${{typed[count-2]}} name= part before= socket=
    for part in "${{typed[@]:1:$((count-2))}}"; do
        [[ $part == -- ]] && {{ _stoker_command "$before"; return; }}
        [[ $before == --socket ]] && socket=$part
        before=$part
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
_stoker_offer() {{
    # A name with brackets is offered quoted, as a shell takes them for a pattern; within open quotes as it is.
    local words one begun=${{word//\\\\/}} open=
    [[ $begun == [\\'\\"]* ]] && {{ begun=${{begun:1}}; open=1; }}
    words=$(command stoker ${{socket:+--socket "$socket"}} completion --words "$1" --begun "$begun" -- \
        "${{typed[@]:1:$((count-2))}}" 2>/dev/null)
    while IFS= read -r one; do
        [[ -n $one && $one == "$begun"* ]] || continue
        [[ -z $open && $one == *\\[* ]] && printf -v one %q "$one"
        COMPREPLY+=("$one")
    done <<< "$words"
}}
_stoker_list() {{
    local list= choice left=
    [[ $word == *,* ]] && list=${{word%,*}},
    for choice in $1; do [[ ,$list == *,$choice,* ]] || left+=" $choice"; done
    COMPREPLY=($(compgen -W "$left" -P "$list" -- "${{word##*,}}"))
}}
_stoker_command() {{
    # The programs of PATH. `compgen -c` would also offer keywords, functions and aliases, which are not programs.
    [[ $1 == -- || $word == */* ]] && {{ COMPREPLY=($(compgen -f -- "$word")); return; }}
    local IFS=: directory file
    for directory in $PATH; do
        for file in "$directory/$word"*; do
            [[ -f $file && -x $file ]] && COMPREPLY+=("${{file##*/}}")
        done
    done
}}
complete -F _stoker stoker
_stokerd() {{
    local word=${{COMP_WORDS[COMP_CWORD]}}
    [[ $word == -* ]] && COMPREPLY=($(compgen -W "{daemon}" -- "$word")) || COMPREPLY=($(compgen -f -- "$word"))
}}
complete -F _stokerd stokerd"""

ZSH = """\
#compdef stoker stokerd
# zsh completion of stoker and stokerd; put this in ~/.zshrc:  source <(stoker completion zsh)
autoload -U +X compinit bashcompinit
(( $+functions[compdef] )) || compinit
bashcompinit
{bash}"""

FISH = """\
# fish completion of stoker and stokerd
function __stoker_command
    set -l words (commandline -opc)
    set -l rest $words[(math 1 + (contains -i -- -- $words))..]
    if set -q rest[1]
        complete -C (string join ' ' -- (string escape -- $rest) (commandline -ct))
    else
        set -l files $PATH/(commandline -ct)*
        for file in $files
            test -f $file -a -x $file; and string replace -r '.*/' '' $file
        end
    end
end
function __stoker_offer
    # fish quotes what it inserts; what is typed may be quoted already.
    set -l begun (commandline -ct | string replace -r '^--[^=]+=' '' | string replace -ra '[\\\\\\'"]' '')
    command stoker completion --words $argv[1] --begun "$begun" -- (commandline -opc)[2..] 2>/dev/null
end
function __stoker_list
    # The choices that are not yet in the list that is typed.
    set -l list ,(commandline -ct | string replace -r '^--[^=]+=' '' | string replace -r '[^,]*$' '')
    for choice in $argv
        string match -q "*,$choice,*" -- $list; or echo $choice
    end
end
complete -c stoker -f
complete -c stoker -n 'contains -- -- (commandline -opc)' -xa '(__stoker_command)'"""

# Options of stokerd: name, value, description. A test compares them with its own help.
DAEMON = (
    ("--config", "FILE", "settings file (default: see `stoker config path`)"),
    ("--state-dir", "DIR", "directory of the database and logs"),
    ("--socket", "PATH", "path of the socket to listen on"),
    ("--version", None, "show program's version number and exit"),
    ("--help", None, "show this help message and exit"),
)


@Command(
    words="bash|zsh|fish",
    least=0,
    greedy=True,
    options=(
        Option("--words", "KIND", "used by the scripts: print the words of this kind", to="words_kind"),
        Option("--begun", "TEXT", "used by the scripts: only words that begin so"),
    ),
    examples=("source <(stoker completion bash)", "stoker completion fish > ~/.config/fish/completions/stoker.fish"),
)
def completion(given: Given) -> None:
    if given["words_kind"] is not None:
        begun = given["begun"] or ""
        for word in completion_words.words_of_kind(given["socket"], given["words_kind"], given["words"], begun):
            render.line(render.visible(word))
        return
    if len(given["words"]) != 1:
        raise UsageError("name one shell", hint=f"the shells are: {', '.join(SHELLS)}")
    (shell,) = given["words"]
    if shell not in SHELLS:
        raise UsageError(f"no completions for {shell!r}", hint=f"the shells are: {', '.join(SHELLS)}")
    render.line(SHELLS[shell]())


def _commands() -> Iterator[tuple[str, str, Command]]:
    """Name, summary and Command of every row."""
    for rows in main.COMMANDS.values():
        for name, (target, summary) in rows.items():
            yield name, summary, main.load(target)


def bash() -> str:
    rows = list(_commands())
    names = sorted({name for name, _, _ in rows} | {name.split()[0] for name, _, _ in rows})
    replies = [("", _next_words("", names) + _names(COMMON))]
    replies += [(name, _next_words(name, names)) for name in names if name not in {row[0] for row in rows}]
    replies += [(name, _next_words(name, names) + _own_words(each) + _names(each.options)) for name, _, each in rows]
    kinds = {name: completion_words.argument_kind(name, each) for name, _, each in rows}
    commands = [_bash_case(name, words, _bash_offer(kinds.get(name, ""))) for name, words in replies]
    choices = [case for name, _, each in rows for option in each.options for case in _bash_values(name, option)]
    return BASH.format(
        names="|".join(f'"{name}"' for name in names),
        choices="\n".join(choices),
        commands="\n".join(commands),
        daemon=" ".join(name for name, _, _ in DAEMON),
    )


def _bash_case(pattern: str, words: Sequence[str], then: str = "") -> str:
    return f'        "{pattern}") COMPREPLY=($(compgen -W "{" ".join(words)}" -- "$word")){then};;'


def _bash_offer(kind: str) -> str:
    """Ask the daemon for words, unless an option is being typed."""
    return f"; [[ $word == -* ]] || _stoker_offer {kind}" if kind else ""


def _bash_values(name: str, option: Option) -> Iterator[str]:
    """The values of an option, after each of its names."""
    kind = completion_words.option_kind(option)
    for spelled in option.names:
        if option.listed:
            yield f'        "{name} {spelled}") _stoker_list "{" ".join(option.choices)}"; return;;'
        elif option.choices:
            yield _bash_case(f"{name} {spelled}", option.choices, "; return")
        elif kind:
            yield f'        "{name} {spelled}") _stoker_offer {kind}; return;;'


def zsh() -> str:
    return ZSH.format(bash=bash())


def fish() -> str:
    lines = [FISH]
    for name, summary, each in _commands():
        first, _, second = name.partition(" ")
        here = f"__fish_seen_subcommand_from {first}"
        if second:
            lines.append(f"complete -c stoker -n '{here}' -a {second} -d {_quoted(summary)}")
            here = f"{here}; and __fish_seen_subcommand_from {second}"
        else:
            lines.append(f"complete -c stoker -n __fish_use_subcommand -a {first} -d {_quoted(summary)}")
        lines += [f"complete -c stoker -n '{here}' {_fish_option(option)}" for option in each.options]
        lines += [f"complete -c stoker -n '{here}' -a {word}" for word in _own_words(each)]
        if kind := completion_words.argument_kind(name, each):
            lines.append(f"complete -c stoker -n '{here}' -a {_quoted(_fish_offer(kind))}")
    lines += [
        f"complete -c stokerd -l {name[2:]} {'-rF' if value else ''} -d {_quoted(description)}"
        for name, value, description in DAEMON
    ]
    return "\n".join(lines)


def _fish_option(option: Option) -> str:
    names = [f"-l {spelled[2:]}" if spelled.startswith("--") else f"-s {spelled[1:]}" for spelled in option.names]
    kind, choices = completion_words.option_kind(option), " ".join(option.choices)
    value = []
    if option.listed:
        offer = f"(__fish_complete_list , '__stoker_list {choices}')"
        value = [f"-xa {_quoted(offer)}"]
    elif choices or kind:
        value = [f"-xa {_quoted(choices or _fish_offer(kind))}"]
    elif option.metavar:
        value = ["-rF" if "FILE" in option.metavar or option.metavar in ("DIR", "PATH") else "-x"]
    return " ".join([*names, *value, f"-d {_quoted(option.description)}"])


def _fish_offer(kind: str) -> str:
    return f"(__stoker_offer {kind})"


def _next_words(name: str, names: list[str]) -> list[str]:
    """The words that may follow `name` in the names of commands."""
    start = f"{name} " if name else ""
    behind = [other.removeprefix(start) for other in names if other.startswith(start)]
    return [word for word in behind if word and " " not in word]


def _own_words(each: Command) -> list[str]:
    """The words of `bash|zsh|fish`."""
    return each.words.split("|") if "|" in each.words and " " not in each.words else []


def _names(options: tuple[Option, ...]) -> list[str]:
    return [option.names[-1] for option in options]


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}
