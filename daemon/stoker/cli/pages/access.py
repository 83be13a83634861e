"""The checks on each request of the web page, and the headers of each answer.

Owns the rules, in this order: the Host must be one of ours (against DNS rebinding), the caller must hold the token or
come from a trusted proxy, and a request that changes something must come from one of our own pages. What a browser
holds is derived from the token by HMAC, so a restart with the same token keeps it logged in and nothing is stored.

Invariant: no handler runs for a request that failed a check.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SAFE_METHODS: Final = ("GET", "HEAD")
HOME: Final = "/"
LOGIN: Final = "/login"  # takes the token of a form
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
SECURITY_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # with no-referrer, browsers send "Origin: null" with our own forms
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
SIGN_IN: Final = "open the address that `stoker web` printed: it ends with ?token=…"
SIGN_IN_AGAIN: Final = (
    "this is not the token of this server: without --token-file, each `stoker web` makes a new one and prints it"
)
OPEN_PATHS = ("/static/",)  # style and scripts hold nothing of the daemon's


class Access(NamedTuple):
    """The rules of this server. `hosts`: names and `name:port` that a Host header may have. `cookie`: the name of ours.

    `user_header`: the header in which a proxy names the user, and `users` those who may come in by it; it counts
    only on a Unix socket, as anybody on the host can send a header to a port.
    """

    token: str
    hosts: frozenset[str]
    cookie: str
    user_header: str | None = None
    users: frozenset[str] = frozenset()
    read_only: bool = False

    def derived(self, purpose: str) -> str:
        return hmac.new(self.token.encode(), purpose.encode(), "sha256").hexdigest()

    @property
    def session(self) -> str:
        """The value of the cookie of a browser that has shown the token."""
        return self.derived("session")

    def welcomed(self, path: str) -> Response:
        """Keep the token out of the address bar: a cookie stands for it from now on."""
        answer = RedirectResponse(path, status_code=303)
        answer.set_cookie(self.cookie, self.session, httponly=True, samesite="strict", path="/")
        return answer

    def is_token(self, given: str) -> bool:
        return _same(given, self.token)

    def csrf(self, user: str | None) -> str:
        """The value of the hidden field of a form of ours."""
        return self.derived(f"form of {user or ''}")


# Makes the page that answers a refused request: status code, the reason, and the address to go to after a sign-in.
Refused = Callable[[int, str, str], Response]


class AccessControl:
    """ASGI middleware. It puts into the state of each request that it lets in: `access`, `user` (None without a proxy),
    and `sent`, which says whether the daemon was asked to change something.
    """

    def __init__(self, app: ASGIApp, access: Access, refused: Refused) -> None:
        self._app = app
        self._access = access
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        """The answer to a request that may not go on; None lets it in."""
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0].lower() not in self._access.hosts:
            return self._refused(
                421, "this page does not answer to that host name; see --allow-host of `stoker web`", HOME
            )
        if scope["method"] not in (*SAFE_METHODS, "POST"):
            return self._refused(405, "only GET, HEAD and POST are known here", HOME)
        if scope["path"].startswith(OPEN_PATHS) and scope["method"] in SAFE_METHODS:
            return None
        scope.setdefault("state", {}).update(access=self._access, user=None, sent=False)
        login = scope["path"] == LOGIN and scope["method"] == "POST"
        if not login and (refusal := self._stranger(scope, headers)) is not None:
            return refusal
        if scope["method"] == "POST" and not _from_our_page(headers, hosts[0]):
            return self._refused(403, "this request comes from another site; nothing was changed", HOME)
        return None

    def _stranger(self, scope: Scope, headers: Headers) -> Response | None:
        """The answer to a caller who has shown no right to be here."""
        access = self._access
        if access.user_header is not None:
            named = headers.getlist(access.user_header)
            if len(named) == 1 and named[0] in access.users:
                scope["state"]["user"] = named[0]
                return None
            if named:
                return self._refused(403, "that user is not in --allow-user of `stoker web`", HOME)
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        tokens = [value for name, value in query if name == "token"]
        if scope["method"] in SAFE_METHODS and any(_same(value, access.token) for value in tokens):
            return access.welcomed(_without_token(scope["path"], query))  # also a browser that has the cookie already
        if any(_same(value, access.session) for value in _cookies(headers, access.cookie)):
            return None
        if _same(_bearer(headers), access.token):
            return None
        asked = _without_token(scope["path"], query) if scope["method"] in SAFE_METHODS else HOME
        return self._refused(401, SIGN_IN_AGAIN if tokens else SIGN_IN, asked)


def local_address(text: str) -> str:
    """The path and query of an address, on this server whatever it names: a form may have been made by anybody."""
    path, _, query = text.partition("?")
    return _without_token(unquote(path), parse_qsl(query, keep_blank_values=True))


def _without_token(path: str, query: Sequence[tuple[str, str]]) -> str:
    """The same address on this server: no path of it can lead to another one."""
    rest = urlencode([(name, value) for name, value in query if name != "token"])
    return f"/{quote(path.lstrip('/'))}" + (f"?{rest}" if rest else "")


def _same(given: str | None, expected: str) -> bool:
    return given is not None and hmac.compare_digest(given.encode(errors="replace"), expected.encode())


def _cookies(headers: Headers, name: str) -> list[str]:
    """All values of that name: a page on another port of this host may have set one that comes before ours."""
    pairs = [pair.strip().partition("=") for line in headers.getlist("cookie") for pair in line.split(";")]
    return [value for key, _, value in pairs if key == name]


def _bearer(headers: Headers) -> str | None:
    scheme, _, value = headers.get("authorization", "").partition(" ")
    return value if scheme.lower() == "bearer" else None


def _from_our_page(headers: Headers, host: str) -> bool:
    """Whether the browser says that one of our pages sent it. A program with the token as bearer has no page."""
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site") == "same-origin" or _bearer(headers) is not None
    return origin.partition("://")[2] == host
