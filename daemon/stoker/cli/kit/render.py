"""The one place that prints: lines, tables, JSON, logs, errors, and the formats of times and sizes.

Owns stdout and stderr. With `--json` each message on stderr is a JSON object too: `{"error": …}` as in the protocol,
`{"note": …}`, `{"hint": …}` or `{"traceback": …}`. Text from jobs and clients reaches a terminal only with its control
characters, C1 codes and direction marks spelled out; a log may colour its text and rewrite its line (terminal_text.py).
Log bytes pass unchanged where stdout is not a terminal. Colours only on a terminal, and never with NO_COLOR.
"""

from __future__ import annotations

import codecs
import json
import os
import select
import sys
import time

from stoker.core.errors import CannotCreate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, Self, TextIO

    from stoker.cli.kit.terminal_text import TerminalText
    from stoker.core.errors import StokerError

RED, GREEN, YELLOW, CYAN, DIM, BOLD = "31", "32", "33", "36", "2", "1"
STATE_COLOURS = {
    "running": CYAN,
    "succeeded": GREEN,
    "failed": RED,
    "expired": RED,
    "cancelled": YELLOW,
    "held": YELLOW,
    "paused": YELLOW,
    "throttled": YELLOW,
    "away": YELLOW,
    "narrowed": YELLOW,
    "waiting": DIM,
}
CLEAR_LINE = "\r\x1b[K"
HOME_AND_CLEAR = "\x1b[H\x1b[J"
# Alternate screen on, cursor and line wrapping off; and back.
TAKE_SCREEN = "\x1b[?1049h\x1b[?25l\x1b[?7l"
GIVE_SCREEN_BACK = "\x1b[?7h\x1b[?25h\x1b[?1049l"
NO_LIMIT = 1 << 16

_tables: dict[str, dict[int, str]] = {}
_mid_line = False  # whether the last byte on stdout was not a newline
_messages_as_json = False
_typed_socket: str | None = None


def on_terminal() -> bool:
    return sys.stdout.isatty()


def coloured() -> bool:
    return on_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def terminal_size(stream: TextIO | None = None) -> tuple[int, int]:
    """Columns and lines of stdout or of another stream; a very large number of both if it is not a terminal."""
    try:
        size = os.get_terminal_size((stream or sys.stdout).fileno())
    except (OSError, ValueError):
        return NO_LIMIT, NO_LIMIT
    return size.columns or 80, size.lines or 24


# --- text -------------------------------------------------------------------------------------------------


def visible(text: str, *, keep: str = "") -> str:
    """`text` with control characters and direction marks spelled out, except those in `keep`."""
    if text.isascii() and text.isprintable():
        return text
    return text.translate(_replacements(keep))


def _replacements(keep: str) -> dict[int, str]:
    if keep not in _tables:
        # Direction marks and overrides, line and paragraph separators, lone surrogates.
        hidden = (0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A), *range(0xD800, 0xE000))
        table = {code: f"\\u{code:04x}" for code in hidden}
        table.update({code: f"\\x{code:02x}" for code in range(0x80, 0xA0)})
        table.update({code: f"^{chr(code ^ 64)}" for code in (*range(32), 127) if chr(code) not in keep})
        _tables[keep] = table
    return _tables[keep]


def paint(text: str, colour: str) -> str:
    return f"\x1b[{colour}m{text}\x1b[0m" if colour and coloured() else text


def when(at_ms: int | None) -> str:
    """UTC milliseconds as local time."""
    if at_ms is None:
        return "-"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_ms / 1_000))


def span(duration_ms: float | None) -> str:
    """`12.0s`, `3m12s`; `-` where there is none."""
    from stoker.core import units  # noqa: PLC0415 - only for those that print times

    return "-" if duration_ms is None else units.span(duration_ms)


def size(count: float | None) -> str:
    """Bytes in powers of 1024: `812B`, `64.0M`."""
    if count is None:
        return "-"
    from stoker.core import units  # noqa: PLC0415 - as above

    return units.volume(count)


# --- stdout -----------------------------------------------------------------------------------------------


def line(text: object = "") -> None:
    print(text)


def receipt(noun: str, answer: object) -> None:
    """Print the answer to a submit. If that fails, the error says that the job is stored nevertheless."""
    try:
        line(answer)
        flush()
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"{noun} is stored, but its id cannot be printed") from None


def flush() -> None:
    print(end="", flush=True)


def json_text(value: Any) -> str:
    """One line of ASCII, in which every control character is escaped."""
    return json.dumps(value, separators=(",", ":"))


def json_document(value: Any) -> None:
    """One document: indented on a terminal, else on one line."""
    print(json.dumps(value, indent=2) if on_terminal() else json_text(value))


def sorted_text(value: Any) -> str:
    """JSON for people and diffs: sorted keys, one value per line."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)


def sorted_document(value: Any) -> None:
    """The same in ASCII, for programs."""
    print(json.dumps(value, indent=2, sort_keys=True))


def text(block: str) -> None:
    """Print text from outside."""
    print(visible(block, keep="\n\t"))


def cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def screen(lines: Sequence[str]) -> None:
    """Redraw the whole terminal; without a terminal just print the lines."""
    text = "\n".join(lines)
    # A newline after the last line of a terminal would scroll it.
    print(f"{HOME_AND_CLEAR}{text}" if on_terminal() else text, end="" if on_terminal() else "\n", flush=True)


def take_screen() -> None:
    print(TAKE_SCREEN, end="", flush=True)


def give_screen_back() -> None:
    print(GIVE_SCREEN_BACK, end="", flush=True)


def facts(pairs: Sequence[tuple[str, object]], verbatim: Sequence[str] = ()) -> None:
    """`key  value` lines, without the values that are None.

    On a terminal long values are continued below, except those that people copy: `verbatim` names their keys.
    """
    shown = [(key, visible(str(value))) for key, value in pairs if value is not None]
    width = max((len(key) for key, _ in shown), default=0)
    for key, value in shown:
        first, *others = [value] if key in verbatim else wrapped(value, terminal_size()[0] - width - 2)
        print(f"{key.ljust(width)}  {first}")
        for other in others:
            print(f"{' ' * width}  {other}")


def wrapped(text: str, columns: int) -> list[str]:
    """The lines of a text, broken between words. A longer word stays whole."""
    if len(text) <= columns:
        return [text]
    import textwrap  # noqa: PLC0415 - only for narrow terminals

    lines = textwrap.wrap(text, max(columns, 1), break_long_words=False, break_on_hyphens=False)
    return lines or [text]


class LogText:
    """Writes log bytes to stdout. On a terminal without `--raw`, only colours and progress bars keep their effect."""

    def __init__(self, *, raw: bool) -> None:
        flush()  # text that was printed before comes first
        self._terminal: TerminalText | None = None
        if on_terminal() and not raw:
            from stoker.cli.kit.terminal_text import TerminalText  # noqa: PLC0415 - only for terminals

            live = os.environ.get("TERM") != "dumb"
            self._terminal = TerminalText(lambda: terminal_size()[0], visible, live=live, coloured=coloured())
            self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def write(self, data: bytes) -> None:
        global _mid_line  # noqa: PLW0603 - stdout is one for all of this process
        if self._terminal is None:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        else:
            print(self._terminal.feed(self._decoder.decode(data)), end="", flush=True)
        _mid_line = not data.endswith(b"\n") if data else _mid_line

    def hole(self, count: int) -> None:
        """Report dropped bytes: on a terminal in the text, else on stderr."""
        missing = f"{size(count)} of this log were dropped here"
        if on_terminal():
            self.write(f"\n[stoker: {missing}]\n".encode())
        else:
            note(f"the output is incomplete: {missing}, beyond the job's --max-log-bytes")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End of the log: reset the colours, and explain `^[` if it was printed."""
        if self._terminal is None:
            return
        print(self._terminal.finish(), end="", flush=True)
        if self._terminal.spelled_out:
            aside("control characters in this log are shown as text; --raw passes them on")


class Sink:
    """The output of a command: stdout, or a file that is replaced as a whole once it is complete.

    An existing path that is not a regular file (a device, a pipe) is written to and not replaced.
    """

    def __init__(self, path: str | None) -> None:
        path = path or "-"
        self._path = None if path == "-" else path
        self._replace = os.path.isfile(path) or not os.path.exists(path)
        self._target = f"{path}.{os.getpid()}" if self._replace else path
        self._stdout = LogText(raw=False)

    def __enter__(self) -> Callable[[bytes], object]:
        if self._path is None:
            return self._stdout.write
        try:
            self._file = open(self._target, "xb" if self._replace else "wb")
        except OSError as error:
            raise self._cannot(error) from None
        return self._file.write

    def __exit__(self, kind: object, *_: object) -> None:
        if self._path is None:
            self._stdout.__exit__()
            return
        try:
            self._file.close()
            if self._replace and kind is None:
                os.replace(self._target, self._path)
        except OSError as error:
            raise self._cannot(error) from None
        finally:
            if self._replace and os.path.exists(self._target):
                os.unlink(self._target)

    def _cannot(self, error: OSError) -> CannotCreate:
        return CannotCreate(f"cannot write {self._path}: {error.strerror}")


# --- stderr -----------------------------------------------------------------------------------------------


def messages_as_json(*, on: bool) -> None:
    """Whether the messages on stderr are JSON objects."""
    global _messages_as_json  # noqa: PLW0603 - stderr is one for all of this process
    _messages_as_json = on


def hints_name(socket: str | None) -> None:
    """Hints name the socket that was typed; without it their commands would reach another daemon."""
    global _typed_socket  # noqa: PLW0603 - as above
    _typed_socket = socket


def naming_socket(hint: str) -> str:
    """A hint whose commands name the socket that was typed."""
    if _typed_socket is None:
        return hint
    from stoker.paths import with_socket  # noqa: PLC0415 - only for a hint

    return with_socket(hint, _typed_socket)


def _message(kind: str, value: Any, text: str) -> None:
    """One message on stderr: as JSON, or as the text for people.

    Written past the buffer of stderr: a signal handler may print while a message is being written, and Python refuses
    to enter the buffer twice.
    """
    line = json_text({kind: value}) if _messages_as_json else text
    data = f"{line}\n".encode(sys.stderr.encoding, "backslashreplace")
    while data:
        data = data[os.write(sys.stderr.fileno(), data) :]


def stderr_is_read() -> bool:
    """Whether a message can be written now: not after Ctrl-S, nor to a full pipe."""
    poll = select.poll()
    poll.register(2, select.POLLOUT)
    return bool(poll.poll(0))


def note(text: str) -> None:
    """A message on stderr, on a line of its own; stdout stays clean for programs."""
    _end_output_line()
    _message("note", text, _as_remark(text))


def _as_remark(text: str) -> str:
    return "\n".join(wrapped(f"stoker: {visible(text)}", terminal_size(sys.stderr)[0]))


def _end_output_line() -> None:
    """Start a new line if the output of a job on the same terminal or file has not ended its last one."""
    global _mid_line  # noqa: PLW0603 - as in LogText
    if _mid_line and _same_file(sys.stdout, sys.stderr):
        print(file=sys.stderr)
    _mid_line = False


def _same_file(one: TextIO, other: TextIO) -> bool:
    """Whether both write to the same terminal or file, as with `2>&1`."""
    try:
        return os.path.samestat(os.fstat(one.fileno()), os.fstat(other.fileno()))
    except (OSError, ValueError):
        return False


def error(failure: StokerError, *, where: str = "") -> None:
    _end_output_line()
    failure.message = where + failure.message
    failure.hint = failure.hint and naming_socket(failure.hint)
    _message("error", failure.to_wire(), "\n".join(_error_lines(failure)))


def _error_lines(failure: StokerError) -> Iterator[str]:
    after_ms = failure.details.get("retry_after_ms")
    yield _as_remark(failure.message + (f"; try again in {span(after_ms)}" if after_ms else ""))
    mistakes = [str(mistake) for mistake in failure.details.get("errors", ())]
    if len(mistakes) == 1 and mistakes[0] in failure.message:
        mistakes.clear()
    for mistake in mistakes:
        yield f"  {visible(mistake)}"
    if failure.hint:
        yield f"hint: {visible(failure.hint)}"


def hint(text: str) -> None:
    text = naming_socket(text)
    _message("hint", text, f"hint: {visible(text)}")


def aside(text: str) -> None:
    """A note that is printed only if stderr is a terminal."""
    if sys.stderr.isatty():
        note(text)


def trace(text: str) -> None:
    """Print a traceback."""
    _message("traceback", text, visible(text.rstrip(), keep="\n"))


def progress(text: str, *, beside_output: bool = True) -> None:
    """A line that the next one replaces, if stderr is a terminal.

    `beside_output`: other lines are printed meanwhile, so it is not shown if stdout is a terminal too.
    """
    if sys.stderr.isatty() and not (beside_output and on_terminal()):
        print(CLEAR_LINE + text, end="", file=sys.stderr, flush=True)
