"""`stoker web`: the server of the web page.

Owns its options. The extra stoker[web] brings the libraries.
"""

from __future__ import annotations

from stoker.cli.kit import render, values
from stoker.cli.kit.connection import PROBE, call
from stoker.cli.kit.parser import Command, Given, Option
from stoker.core.errors import StokerError, UsageError

HIGHEST_PORT = 65_535


def port(text: str) -> int:
    number = values.integer(text)
    if number > HIGHEST_PORT:
        raise UsageError(f"{number} is no port: 0 to {HIGHEST_PORT}")
    return number


@Command(
    options=(
        Option("--port", "N", "listen on this port of 127.0.0.1 (default: 8600; 0: any that is free)", convert=port),
        Option("--unix", "PATH", "listen on a Unix socket that only you may open, as for a proxy"),
        Option("--token-file", "FILE", "read the token from a file; without it each start makes a new one"),
        Option("--allow-host", "NAME", "also answer to this host name, as that of a proxy", many=True),
        Option("--user-header", "NAME", "the header in which the proxy on --unix names the user"),
        Option("--allow-user", "NAME", "a user whom the proxy may let in without the token", many=True),
        Option("--read-only", None, "offer no actions"),
    ),
    examples=(
        "stoker web",
        "stoker web --port 0 --read-only",
        "stoker web --unix web.sock --allow-host jobs.example.org --user-header X-Remote-User --allow-user ann",
    ),
)
def web(given: Given) -> None:
    """Prints an address with a token: open it in a browser. It has the rights of the user who started it, and listens
    only on this host. Ctrl-C ends it; jobs go on.
    """
    _check(given)
    try:
        from stoker.cli.pages import server  # noqa: PLC0415 - an extra
        from stoker.cli.pages.access import Access  # noqa: PLC0415 - an extra
    except ImportError as missing:
        raise UsageError(
            "the libraries of the web page are not installed", hint="pip install 'stoker[web]'"
        ) from missing
    secret, new = server.token(given["token_file"])
    listening = server.listen(given["port"], given["unix"], given["allow_host"])
    place = listening.socket.getsockname()
    if isinstance(place, tuple):
        address = f"http://{place[0]}:{place[1]}/" + (f"?token={secret}" if new else "")
    else:
        address = str(place) + (f" token={secret}" if new else "")
    access = Access(
        token=secret,
        hosts=listening.hosts,
        cookie=f"stoker-web-{place[1]}" if isinstance(place, tuple) else "stoker-web",
        user_header=given["user_header"],
        users=frozenset(given["allow_user"]),
        read_only=given["read_only"],
    )
    _say_if_alone(given)
    server.serve(given["socket"], listening, access, address)


def _say_if_alone(given: Given) -> None:
    """The page waits for a daemon that starts later, so that both may start in any order; a person wants to know."""
    try:
        call(given, PROBE, {})
    except StokerError as error:
        render.note(f"{error.message}; the page shows this until one answers")
        if error.hint:
            render.hint(error.hint)


def _check(given: Given) -> None:
    """Raises UsageError."""
    if given["unix"] is not None and given["port"] is not None:
        raise UsageError("--port and --unix exclude each other", hint="choose one of them")
    if bool(given["user_header"]) != bool(given["allow_user"]):
        raise UsageError("--user-header and --allow-user belong together", hint="give both, or none of them")
    if given["user_header"] is not None and given["unix"] is None:
        raise UsageError(
            "--user-header needs --unix: on a port anybody on this host could send the header",
            hint="let the proxy connect to --unix PATH",
        )
