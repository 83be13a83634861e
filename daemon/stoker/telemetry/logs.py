"""The daemon's log: one line per event on stderr, JSON for machines, readable on a terminal.

Owns the form of a line: `event level ts` first, secrets redacted, text bounded, no control characters. events.py lists
the events and their severities.

Invariants: `log` never raises and never waits, even if stderr is blocked, closed or on a full disk (log_writer.py); a
JSON line costs less than 10 µs. There is one logger for the process, as there is one stderr.
"""

from __future__ import annotations

import logging
import os
import re
import time
import traceback
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from typing import Any, Final, Literal, Protocol

import msgspec

from stoker.core.errors import StokerError
from stoker.telemetry.events import LogEvent, Severity
from stoker.telemetry.journald import JournalSocket, is_journal
from stoker.telemetry.lean_structlog import structlog
from stoker.telemetry.log_writer import LogWriter

Level = Literal["debug", "info", "warning", "error", "critical"]
Format = Literal["auto", "json", "console"]

STDERR: Final = 2
FLUSH_S: Final = 1.0
LONGEST_TEXT: Final = 4096
LONGEST_LIST: Final = 100
MAX_INT: Final = 2**63 - 1
DEEPEST: Final = 8
REDACTED: Final = "[redacted]"

_SECRET: Final = re.compile(
    r"passw(or)?d|passphrase|secret|token|api[_-]?key|private[_-]?key|access[_-]?key|authorization|credential|cookie",
    re.IGNORECASE,
)
# DEL, C1 controls, line separators and marks that reorder text: valid in JSON, but terminals act on them.
_CONTROLS: Final = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
_LEVEL_NAMES: Final = {severity: severity.name.lower() for severity in Severity}
_encode: Final = msgspec.json.Encoder().encode


class LogStream(Protocol):
    def write(self, lines: bytes, /) -> object: ...

    def isatty(self) -> bool: ...


def log(event: LogEvent, **fields: Any) -> None:
    """Log `event` with fields: `job attempt queue workflow trace_id` where they apply, then any others.

    An exception is written as `Type: message`, with its stack if the event is an error.
    """
    if is_logged(event):
        _state.logger.msg(event, **fields)


def is_logged(event: LogEvent) -> bool:
    return event.severity >= _state.threshold


def configure(level: Level = "info", format: Format = "auto", stream: LogStream | None = None) -> None:  # noqa: A002
    """Send events of `level` and above to `stream`, by default stderr in the background. Until then nothing is logged.

    JSON lines for a stderr that is the journal of systemd become its entries, with fields of their own.

    Warnings of the standard library's loggers, such as asyncio's, become events too.
    """
    stream = stream or _stderr
    console = format == "console" or (format == "auto" and stream.isatty())
    if not console and stream is _stderr and is_journal(STDERR, os.environ):
        _stderr.send_by(JournalSocket().send)
    _state.stream = stream
    _state.logger = structlog.wrap_logger(
        _Lines(),
        processors=[_shaped, _console(colors=stream.isatty()) if console else _json],
        wrapper_class=_EventLogger,
    ).bind()
    logging.getLogger().addHandler(_BRIDGE)
    set_level(level)


def set_level(level: Level) -> None:
    """Log events of `level` and above from now on."""
    _state.threshold = Severity[level.upper()]


def write_plain(text: str) -> None:
    """Write text for people to stderr, after the lines that wait."""
    _stderr.write(text.encode("utf-8", "backslashreplace"))


def flush(timeout_s: float = FLUSH_S) -> None:
    """Wait, before the process exits, until the lines for stderr are written."""
    _stderr.flush(timeout_s)


@contextmanager
def together() -> Iterator[None]:
    """Write the lines logged inside at once: a turn of the engine may log hundreds of jobs."""
    held: list[bytes] = []
    _state.held = held
    try:
        yield
    finally:
        _state.held = None
        if held:
            _write(b"".join(held))


def lost_lines() -> int:
    """The number of lines that could not be written since the process began."""
    return _stderr.lost_lines


def _report_loss(lines: int) -> None:
    log(LogEvent.LOG_LINES_LOST, lines=lines)


class _State:
    threshold: int = Severity.CRITICAL + 1
    logger: Any = None
    stream: LogStream | None = None
    held: list[bytes] | None = None


class _EventLogger(structlog.BoundLoggerBase):
    """Nothing is bound to it, so it passes the fields on as they are: structlog's own copies them for each line."""

    def msg(self, event: LogEvent, **fields: Any) -> None:
        fields["event"] = event
        line: Any = fields
        for process in self._processors:
            line = process(self._logger, "info", line)
        self._logger.info(line)


class _Lines:
    """Gets finished lines."""

    def info(self, line: bytes) -> None:
        if _state.held is None:
            _write(line + b"\n")
        else:
            _state.held += (line, b"\n")


def _write(lines: bytes) -> None:
    assert _state.stream is not None, "logging is configured before anything is logged"
    _state.stream.write(lines)


class _Bridge(logging.Handler):
    """Turns records of the standard library's logging into events."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        stack = _stack_of(error) if error else None
        text = _text(record.getMessage, "unreadable message")
        log(LogEvent.LIBRARY_MESSAGE, library=record.name, severity=record.levelname, message=text, stack=stack)


_state: Final = _State()
_stderr: Final = LogWriter(STDERR, _report_loss)
_BRIDGE: Final = _Bridge(logging.WARNING)

# --- the content of a line -------------------------------------------------------------------------------------


def _shaped(_logger: Any, _method: str, fields: MutableMapping[str, Any]) -> dict[str, Any]:
    """The fields in order and safe to print. None is left out."""
    event: LogEvent = fields.pop("event")
    line = {"event": event, "level": _LEVEL_NAMES[event.severity], "ts": _timestamp()}
    for key, value in fields.items():
        if value is None:
            continue
        line[key] = REDACTED if _is_secret(key) else _harmless(value)
        # A StokerError explains itself; any other exception is a bug, found by its stack.
        if event.severity >= Severity.ERROR and isinstance(value, BaseException) and not isinstance(value, StokerError):
            line["stack"] = _stack_of(value)
    return line


def _timestamp() -> str:
    """Now, as RFC 3339 in UTC with milliseconds."""
    seconds, ns = divmod(time.time_ns(), 1_000_000_000)
    return f"{_date(seconds)}.{ns // 1_000_000:03d}Z"


@lru_cache(maxsize=2)
def _date(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


@lru_cache(maxsize=1024)
def _is_secret(key: str) -> bool:
    return _SECRET.search(key) is not None


def _harmless(value: Any, depth: int = 0) -> Any:
    """The value in a form that can be encoded, has a bounded size and contains no secret."""
    if isinstance(value, str):
        return value if value.isascii() and len(value) <= LONGEST_TEXT else _bounded(value)
    if isinstance(value, int):
        return value if -MAX_INT <= value <= MAX_INT else _text(value.__repr__, "huge number")
    if value is None or isinstance(value, float):
        return value
    return _harmless_object(value, depth) if depth < DEEPEST else "…"


def _harmless_object(value: Any, depth: int) -> Any:
    match value:
        case dict():
            return _harmless_table(value, depth)
        case list() | tuple() | set() | frozenset():
            return [_harmless(item, depth + 1) for item in islice(value, LONGEST_LIST)]
        case msgspec.Struct():
            return _harmless_table(msgspec.structs.asdict(value), depth)
        case BaseException():
            return _text(lambda: f"{type(value).__name__}: {value}", type(value).__name__)
    return _text(value.__str__, type(value).__name__)


def _harmless_table(table: dict[Any, Any], depth: int) -> dict[str, Any]:
    named = ((_text(key.__str__, "key"), value) for key, value in islice(table.items(), LONGEST_LIST))
    return {key: REDACTED if _is_secret(key) else _harmless(value, depth + 1) for key, value in named}


def _text(read: Callable[[], str], otherwise: str) -> str:
    try:
        return _bounded(read())
    except Exception:  # noqa: BLE001 - a __str__ failed: the rest of the line is still useful
        return f"<{otherwise}>"


def _bounded(text: str) -> str:
    """At most LONGEST_TEXT characters; bytes of file names that are not UTF-8 become escapes."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}… ({len(text)} characters)"


def _stack_of(error: BaseException) -> str:
    """The end of the traceback, where the cause is."""
    return _text(lambda: "".join(traceback.format_exception(error))[-LONGEST_TEXT:], "unreadable stack")


# --- the form of a line ------------------------------------------------------------------------------------


def _json(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> bytes:
    encoded = _encode(line)
    if encoded.isascii() and b"\x7f" not in encoded:
        return encoded
    return _CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", encoded.decode()).encode()


def _console(*, colors: bool) -> Callable[[Any, str, MutableMapping[str, Any]], bytes]:
    render = structlog.dev.ConsoleRenderer(
        colors=colors, timestamp_key="ts", exception_formatter=structlog.dev.plain_traceback
    )

    def write(logger: Any, method: str, line: MutableMapping[str, Any]) -> bytes:
        visible = {key: _visible(value) if isinstance(value, str) else value for key, value in line.items()}
        return render(logger, method, visible).encode()

    return write


def _visible(text: str) -> str:
    """Escape the characters that a terminal would obey; newlines stay, for stacks."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)
