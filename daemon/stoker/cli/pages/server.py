"""The server of the web page: its socket, its token, and a clean end.

Owns the place where it listens: a port of the loopback, a Unix socket that only its owner may open, or a socket of
systemd. No other address is taken, as a page with actions is no page for a network; a proxy brings it there.
"""

from __future__ import annotations

import os
import secrets
import shlex
import signal
import socket
import stat
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import uvicorn

from stoker.cli.kit import render
from stoker.cli.pages.access import Access
from stoker.cli.pages.app import WebPage
from stoker.cli.pages.protocol import BoundedProtocol
from stoker.core.errors import CannotCreate, UsageError
from stoker.rpc.async_client import AsyncClient

LOOPBACK = "127.0.0.1"
LOCAL_NAMES = (LOOPBACK, "localhost", "[::1]")
DEFAULT_PORT = 8600
PORT_OF_HTTP = 80
FIRST_FD_OF_SYSTEMD = 3
CREDENTIAL = "web-token"
SHORTEST_TOKEN = 16


class Listening(NamedTuple):
    """A bound socket. `hosts`: what a browser may call it. `path`: of a Unix socket that we made."""

    socket: socket.socket
    hosts: frozenset[str]
    path: Path | None = None


def listen(port: int | None, unix: str | None, more_hosts: list[str]) -> Listening:
    """Raises CannotCreate. Without a port or path: the socket that systemd has opened, else the usual port."""
    names = {name.lower() for name in more_hosts}
    if port is None and unix is None and "LISTEN_FDS" in os.environ and (passed := _passed_by_systemd()) is not None:
        bound = passed.getsockname()
        local = {f"{name}:{bound[1]}" for name in LOCAL_NAMES} if isinstance(bound, tuple) else {"localhost"}
        return Listening(passed, frozenset({*local, *names}))
    if unix is not None:
        path = Path(unix).absolute()
        return Listening(_bound_path(path), frozenset({"localhost", *names}), path)
    bound_port = _bound_port(DEFAULT_PORT if port is None else port)
    number = bound_port.getsockname()[1]
    plain = LOCAL_NAMES if number == PORT_OF_HTTP else ()  # browsers leave that one out
    return Listening(bound_port, frozenset({*(f"{name}:{number}" for name in LOCAL_NAMES), *plain, *names}))


def _passed_by_systemd() -> socket.socket | None:
    """See sd_listen_fds(3)."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    if os.environ["LISTEN_FDS"] != "1":
        raise UsageError(f"systemd passed {os.environ['LISTEN_FDS']} sockets, not one", hint="see stoker-web.socket")
    passed = socket.socket(fileno=FIRST_FD_OF_SYSTEMD)
    address = passed.getsockname()
    if isinstance(address, tuple) and not ip_address(address[0]).is_loopback:
        raise UsageError(
            f"systemd passed a socket that listens on {address[0]}: this page is for this host only",
            hint="ListenStream=127.0.0.1:8600, or a Unix socket for a proxy",
        )
    return passed


def _bound_port(port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((LOOPBACK, port))
        listening.listen()
    except OSError as error:
        listening.close()
        raise CannotCreate(
            f"port {port} of {LOOPBACK} cannot be used ({error.strerror})",
            hint="choose another: stoker web --port N (0: any that is free)",
        ) from error
    return listening


def _bound_path(path: Path) -> socket.socket:
    """Mode 0600 from the first instant. A socket without a server is replaced, anything else is left alone."""
    if path.parent.is_dir() and path.parent.stat().st_mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH:
        raise CannotCreate(
            f"{path.parent} is writable by everybody, who could replace the socket", hint="choose another --unix"
        )
    listening = socket.socket(socket.AF_UNIX)
    earlier = os.umask(0o177)
    try:
        _remove_dead(path)
        listening.bind(str(path))
        listening.listen()
    except OSError as error:
        listening.close()
        raise CannotCreate(
            f"{path} cannot be used ({error.strerror or error})", hint="choose another: stoker web --unix PATH"
        ) from error
    finally:
        os.umask(earlier)
    return listening


def _remove_dead(path: Path) -> None:
    """Raises CannotCreate if something else is there, or a server that answers."""
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise CannotCreate(f"{path} exists and is not a socket", hint="move it away, or choose another --unix")
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
            else:
                raise CannotCreate(f"{path}: another server answers there", hint="stop it, or choose another --unix")


def token(file: str | None) -> tuple[str, bool]:
    """The token, and whether it is new: of the file, else of systemd's credential `web-token`, else made now.

    Raises UsageError for one that cannot be read or can be guessed.
    """
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    credential = None if directory is None else os.path.join(directory, CREDENTIAL)
    path = file or (credential if credential is not None and os.path.exists(credential) else None)
    if path is None:
        return secrets.token_urlsafe(32), True
    try:
        readable = os.stat(path).st_mode & 0o077 and path != credential
        text = Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--token-file {path}: {error}", hint="openssl rand -hex 32 > FILE; chmod 600 FILE") from error
    if readable:
        raise UsageError(f"--token-file {path}: others can read it", hint=f"chmod 600 {shlex.quote(path)}")
    if len(text) < SHORTEST_TOKEN or not text.isprintable() or " " in text:
        raise UsageError(
            f"--token-file {path}: a token has at least {SHORTEST_TOKEN} printable characters and no space",
            hint="openssl rand -hex 32 > FILE; chmod 600 FILE",
        )
    return text, False


class PageServer(uvicorn.Server):
    """Ends the open streams at the first signal, so that no browser keeps the server up."""

    def __init__(self, config: uvicorn.Config, page: WebPage) -> None:
        super().__init__(config)
        self._page = page

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._page.close()
        super().handle_exit(sig, frame)


def serve(socket_path: str | None, listening: Listening, access: Access, address: str) -> None:
    """Serve until a signal."""
    page = WebPage(AsyncClient(socket_path), access)
    config = uvicorn.Config(
        page.app,
        http=BoundedProtocol,
        log_config=None,  # an access log would hold the token
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_graceful_shutdown=3,
    )
    render.line(address)
    render.flush()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the server raises the signal again once it has ended
    try:
        PageServer(config, page).run([listening.socket])
    except KeyboardInterrupt:
        return
    finally:
        if listening.path is not None:
            listening.path.unlink(missing_ok=True)
