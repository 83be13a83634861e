"""The paths of the state directory, the socket and the settings files.

Owns the order of flags, environment and defaults, and the option that a command in a hint needs to work on the same
state. It never touches the file system: every answer follows from the arguments, and the caller looks which of several
paths exists. Standard library only, without pathlib, which takes longer to load than the rest of the client.

Invariants: every path is absolute; a socket path has a length that the kernel accepts (unix(7), `sun_path`).
"""

from __future__ import annotations

import os

from stoker.core.errors import ConfigInvalid, UsageError

TYPE_CHECKING = False  # `typing` alone would be a tenth of the time of `stoker submit`
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SYSTEM_CONFIG = "/etc/stoker/stoker.toml"
SYSTEM_RUNTIME = "/run/stoker"
SYSTEM_STATE = "/var/lib/stoker"
USER_SESSIONS = "/run/user"
ROOT_SESSION = f"{USER_SESSIONS}/0"
SOCKET_NAME = "stoker.sock"
SOCKET_PATH_BYTES = 107
# The commands that work on a state directory.
WITH_STATE_DIR = r"\bstoker (?:restore|doctor|recover|audit verify|backup(?: ls)?)\b"
# The commands that may ask a daemon: all but these.
WITH_SOCKET = r"\bstoker (?!restore\b|config check\b|completion\b)(?=[a-z])"


def state_dir(flag: str | None, environ: Mapping[str, str], uid: int) -> str:
    """`--state-dir`, STOKER_STATE_DIR, systemd's STATE_DIRECTORY, else $XDG_STATE_HOME/stoker.

    Without XDG_STATE_HOME root uses the directory of the system service, as it does for the socket. Raises UsageError,
    and ConfigInvalid for a path that is not UTF-8.
    """
    path = _not_empty("--state-dir", flag) or environ.get("STOKER_STATE_DIR") or _of_systemd("STATE_DIRECTORY", environ)
    if path:
        return _check_text(os.path.abspath(path), "state directory", "--state-dir or STOKER_STATE_DIR")
    if uid == 0 and not os.path.isabs(environ.get("XDG_STATE_HOME", "")):
        return SYSTEM_STATE
    path = os.path.join(_xdg("XDG_STATE_HOME", ".local/state", environ), "stoker")
    return _check_text(path, "state directory", "--state-dir or STOKER_STATE_DIR")


def with_state_dir(hint: str, root: str, environ: Mapping[str, str], uid: int) -> str:
    """The hint, with `--state-dir` in each command that would otherwise work on the usual directory of the user.

    Variables that name a directory do not count: they may be missing in the shell in which the hint is typed.
    """
    import re  # noqa: PLC0415 - only after an error
    import shlex  # noqa: PLC0415 - as above

    usual = {name: value for name, value in environ.items() if name not in ("STOKER_STATE_DIR", "STATE_DIRECTORY")}
    if root == state_dir(None, usual, uid):
        return hint
    option = f" --state-dir {shlex.quote(root)}"
    return re.sub(WITH_STATE_DIR, lambda command: command[0] + option, hint)


def with_socket(hint: str, socket: str) -> str:
    """The hint, with `--socket` in each command that would otherwise reach the usual daemon of the user."""
    import re  # noqa: PLC0415 - only after an error
    import shlex  # noqa: PLC0415 - as above

    return re.sub(WITH_SOCKET, lambda _: f"stoker --socket {shlex.quote(socket)} ", hint)


def socket_paths(flag: str | None, environ: Mapping[str, str], uid: int) -> tuple[str, ...]:
    """`--socket`, STOKER_SOCKET, systemd's RUNTIME_DIRECTORY, else the default paths for this user, best first.

    There are two defaults if XDG_RUNTIME_DIR is not set, as under cron, su and sudo: the socket of the user's session
    and that of the system service. Raises UsageError, and ConfigInvalid for a path that is not UTF-8 or too long for a
    socket.
    """
    given = _not_empty("--socket", flag) or environ.get("STOKER_SOCKET")
    choices = (given,) if given else (os.path.join(folder, SOCKET_NAME) for folder in _runtime_dirs(environ, uid))
    paths = tuple(map(os.path.abspath, choices))
    for path in paths:
        check_length(_check_text(path, "socket", "--socket or STOKER_SOCKET"))
    return paths


def first_within_reach(paths: tuple[str, ...], exists: Callable[[str], bool]) -> str:
    """The first path that exists, else the last one, which an error can then name."""
    return next(filter(exists, paths), paths[-1])


def check_length(path: str) -> None:
    """Raises ConfigInvalid for a path that is too long for a socket."""
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_BYTES:
        message = f"the socket's path is {length} bytes long; the limit is {SOCKET_PATH_BYTES}: {path}"
        raise ConfigInvalid(message, hint="choose a shorter one with --socket or STOKER_SOCKET", errors=[message])


def _check_text(path: str, what: str, options: str) -> str:
    """Raises ConfigInvalid for a path that is not UTF-8: answers of the daemon and variables of its jobs hold it."""
    try:
        path.encode()
    except UnicodeEncodeError:
        message = f"the path of the {what} is not UTF-8: {os.fsencode(path)!r}"
        raise ConfigInvalid(message, hint=f"choose another one with {options}", errors=[message]) from None
    return path


def config_files(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The files that may hold settings; the first that exists is read."""
    return (os.path.join(_xdg("XDG_CONFIG_HOME", ".config", environ), "stoker", "stoker.toml"), SYSTEM_CONFIG)


def _not_empty(option: str, flag: str | None) -> str | None:
    """An empty flag is usually an unset shell variable: refuse it instead of using the default."""
    if flag == "":
        raise UsageError(f"{option} is empty", hint="name a path, or leave the option out")
    return flag


def _runtime_dirs(environ: Mapping[str, str], uid: int) -> tuple[str, ...]:
    if of_systemd := _of_systemd("RUNTIME_DIRECTORY", environ):
        return (of_systemd,)
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    # Root runs the system service: the directory of root's own login session would hide its socket.
    if os.path.isabs(runtime) and not (uid == 0 and os.path.normpath(runtime) == ROOT_SESSION):
        return (os.path.join(runtime, "stoker"),)
    session = () if uid == 0 else (f"{USER_SESSIONS}/{uid}/stoker",)
    return (*session, SYSTEM_RUNTIME)


def _of_systemd(name: str, environ: Mapping[str, str]) -> str:
    """The first of the directories that systemd made for the unit (systemd.exec(5))."""
    return environ.get(name, "").partition(":")[0]


def _xdg(name: str, default: str, environ: Mapping[str, str]) -> str:
    """A base directory. A relative one is ignored, as the XDG specification demands."""
    base = environ.get(name, "")
    return base if os.path.isabs(base) else os.path.join(_home(environ), default)


def _home(environ: Mapping[str, str]) -> str:
    home = environ.get("HOME") or os.path.expanduser("~")
    return os.path.abspath(home)
