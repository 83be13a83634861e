"""The checks of the web page against everything else that runs in a browser or on this host."""

from __future__ import annotations

import html
import re
import signal
import socket
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx
import pytest

from stoker.cli.pages.access import SECURITY_HEADERS
from tests.support.daemon import BIN
from tests.support.facts import DEADLINE_S, line_with, until
from tests.support.web_page import CSRF, Browser, WebPageProcess
from tests.support.work import end_of, shell, submit, submit_running

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.daemon import DaemonProcess
    from tests.support.work import Gate


def raw(web: WebPageProcess, request: str) -> str:
    """The answer to bytes that a library would not send; the server closes the connection."""
    host, _, port = web.base.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=DEADLINE_S) as connection:
        connection.sendall(request.encode("latin-1"))
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer.decode("latin-1")


def status_of(answer: str) -> int:
    return int(answer.split(" ")[1])


def own_host(web: WebPageProcess) -> str:
    return web.base.removeprefix("http://")


def with_token(web: WebPageProcess) -> str:
    return f"authorization: Bearer {web.token}\r\n"


@pytest.mark.parametrize(
    "host",
    [
        "host: evil.example",
        "host: evil.example:{port}",
        "host: 127.0.0.1:1",
        "host: 127.0.0.1",
        "host: 127.0.0.1.:{port}",
        "host: localhost.evil.example:{port}",
        "host: ",
        "x-forwarded-host: 127.0.0.1:{port}\r\nhost: evil.example",
    ],
)
def test_request_when_its_host_is_foreign_then_it_is_refused_even_with_the_token(
    web: WebPageProcess, host: str
) -> None:
    port = web.base.rpartition(":")[2]

    answer = raw(web, f"GET /jobs HTTP/1.1\r\n{host.format(port=port)}\r\n{with_token(web)}connection: close\r\n\r\n")

    assert status_of(answer) == 421


@pytest.mark.parametrize("hosts", ["", "host: {own}\r\nhost: evil.example\r\n", "host: {own}\r\nhost: {own}\r\n"])
def test_request_when_it_has_not_exactly_one_host_then_it_is_refused(web: WebPageProcess, hosts: str) -> None:
    answer = raw(
        web,
        f"GET /jobs HTTP/1.1\r\n{hosts.format(own=own_host(web))}{with_token(web)}connection: close\r\n\r\n",
    )

    assert status_of(answer) in (400, 421)


def test_request_when_it_has_no_token_then_no_page_answers(web: WebPageProcess) -> None:
    with Browser(web.base) as stranger:
        for path in ("/jobs", "/jobs/1", "/live/jobs", "/jobs/1/cancel", "/?token=wrong", "/?token=", "/nothing"):
            assert "Sign in" in stranger.get(path, 401)
        assert stranger.http.get("/static/page.css").status_code == 200


def test_token_when_it_is_typed_into_the_form_then_it_opens_the_pages(web: WebPageProcess) -> None:
    with Browser(web.base) as stranger:
        assert stranger.http.post("/login", data={"token": "wrong"}).status_code == 401
        assert stranger.http.post("/login", data={"token": web.token}, follow_redirects=False).status_code == 303
        stranger.get("/jobs")


@pytest.mark.parametrize(
    ("asked", "back"),
    [
        ("/jobs?state=held&name=a%20b", "/jobs?state=held&name=a+b"),
        ("/workflows/7?part=work%5Ba/b%5D", "/workflows/7?part=work%5Ba%2Fb%5D"),
        ("/?token=wrong", "/"),
    ],
)
def test_sign_in_when_a_page_was_asked_for_then_it_leads_back_to_it(web: WebPageProcess, asked: str, back: str) -> None:
    with Browser(web.base) as stranger:
        (field,) = re.findall(r'name="back" value="([^"]*)"', stranger.get(asked, 401))
        sent = {"token": web.token, "back": html.unescape(field)}
        answer = stranger.http.post("/login", data=sent, follow_redirects=False)

    assert (answer.status_code, answer.headers["location"]) == (303, back)


@pytest.mark.parametrize(
    "back", ["//evil.example", "https://evil.example/", "/%5Cevil.example", "\\\\evil.example", "/\t/evil.example", ""]
)
def test_sign_in_when_its_form_names_another_site_then_it_stays_on_this_one(web: WebPageProcess, back: str) -> None:
    with Browser(web.base) as stranger:
        answer = stranger.http.post("/login", data={"token": web.token, "back": back}, follow_redirects=False)

    location = answer.headers["location"]
    assert answer.status_code == 303
    assert location.startswith("/")
    assert location[1:2] not in ("/", "\\", "\t")
    assert httpx.URL(web.base).join(location).host == httpx.URL(web.base).host


def test_token_when_an_address_has_it_then_a_cookie_takes_its_place(web: WebPageProcess) -> None:
    with Browser(web.base) as browser:
        answer = browser.http.get(f"/jobs?state=held&token={web.token}", follow_redirects=False)

        assert (answer.status_code, answer.headers["location"]) == (303, "/jobs?state=held")
        cookie = answer.headers["set-cookie"]
        assert web.token not in cookie
        assert {"HttpOnly", "SameSite=strict"} <= {part.strip() for part in cookie.split(";")}
        again = browser.http.get(f"/jobs?token={web.token}", follow_redirects=False)
        assert (again.status_code, again.headers["location"]) == (303, "/jobs")


def test_token_when_it_is_of_an_earlier_start_then_the_page_names_the_reason(web: WebPageProcess) -> None:
    with Browser(web.base) as stranger:
        assert "not the token of this server" in stranger.get("/?token=wrong", 401)
        assert "open the address" in stranger.get("/", 401)


@pytest.mark.parametrize(
    "path", ["//evil.example", "/%5Cevil.example", "/%09/evil.example", "///evil.example/%0d%0aX: y"]
)
def test_redirect_when_the_path_names_another_site_then_it_stays_on_this_one(web: WebPageProcess, path: str) -> None:
    answer = raw(
        web,
        f"GET {path}?token={web.token} HTTP/1.1\r\nhost: {own_host(web)}\r\nconnection: close\r\n\r\n".replace(
            "X: y", "X:y"
        ),
    )

    location = next(line for line in answer.split("\r\n") if line.startswith("location: ")).removeprefix("location: ")
    assert location.startswith("/")
    assert location[1] not in "/\\\t"


def test_cookie_when_another_port_set_one_of_the_same_name_then_ours_still_counts(
    web: WebPageProcess, browser: Browser
) -> None:
    (name, value) = next(iter(browser.http.cookies.items()))
    cookies = f"cookie: {name}=tossed; {name}={value}\r\n"

    answer = raw(web, f"GET /jobs HTTP/1.1\r\nhost: {own_host(web)}\r\n{cookies}connection: close\r\n\r\n")

    assert status_of(answer) == 200


@pytest.mark.parametrize(
    ("origin", "fetched"),
    [
        ("http://evil.example", "cross-site"),
        ("null", None),
        ("http://127.0.0.1:1", "same-site"),
        (None, "same-site"),
        (None, None),
        ("http://evil.example", "same-origin"),
    ],
)
def test_form_when_another_page_sends_it_then_nothing_changes(
    shared: DaemonProcess, browser: Browser, gate: Gate, origin: str | None, fetched: str | None
) -> None:
    with shared.client() as client:
        job = submit_running(client, gate.spec())
        form = CSRF.search(browser.get(f"/jobs/{job}/cancel"))
        assert form
        del browser.http.headers["origin"]
        headers = {name: value for name, value in (("origin", origin), ("sec-fetch-site", fetched)) if value}

        answer = browser.http.post(f"/jobs/{job}/cancel", data={"csrf": form[1]}, headers=headers)

        assert answer.status_code == 403
        assert client.get(job)["state"] == "running"
        gate.open()
        assert end_of(client, job)[0] == "succeeded"


@pytest.mark.parametrize("field", ["", "0" * 64, "é"])
def test_form_when_its_hidden_field_is_wrong_then_nothing_changes(
    shared: DaemonProcess, browser: Browser, field: str
) -> None:
    with shared.client() as client:
        job = submit(client, shell("exit 1"))
        end_of(client, job)

        assert browser.http.post(f"/jobs/{job}/retry", data={"csrf": field}).status_code == 403
        assert client.get(job)["attempts"] == 1


def test_form_when_it_is_too_large_then_it_is_refused(shared: DaemonProcess, browser: Browser) -> None:
    with shared.client() as client:
        job = submit(client, shell("exit 1"))
        end_of(client, job)

        answer = browser.http.post(f"/jobs/{job}/retry", data={"csrf": "x", "reason": "x" * 100_000})

        assert (answer.status_code, client.get(job)["attempts"]) == (400, 1)


def test_methods_when_they_are_none_of_ours_then_they_are_refused(browser: Browser) -> None:
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"):
        assert browser.http.request(method, "/jobs").status_code == 405
    assert browser.http.post("/jobs").status_code == 405
    head = browser.http.head("/jobs")
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize(
    "path", ["/static/../access.py", "/static/%2e%2e/access.py", "/static//etc/passwd", "/static/"]
)
def test_static_when_the_path_leads_elsewhere_then_nothing_is_found(web: WebPageProcess, path: str) -> None:
    answer = raw(web, f"GET {path} HTTP/1.1\r\nhost: {own_host(web)}\r\nconnection: close\r\n\r\n")

    assert status_of(answer) in (401, 404)


def test_answers_when_they_are_pages_errors_or_files_then_all_have_the_headers(browser: Browser) -> None:
    for path in ("/jobs", "/nothing", "/jobs/x", "/static/page.js"):
        headers = browser.http.get(path).headers
        assert {name: headers[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS
        assert "server" not in headers


def test_names_when_they_are_markup_then_the_page_shows_them_as_text(shared: DaemonProcess, browser: Browser) -> None:
    name = "<img src=x onerror=alert(1)>\u202egnp.exe"
    with shared.client() as client:
        job = submit(client, {**shell("exit 0"), "name": name, "labels": {"k": '"><script>alert(1)</script>'}})
        end_of(client, job)

    for page in (browser.get("/jobs"), browser.get(f"/jobs/{job}"), browser.get(f"/jobs/{job}/retry")):
        assert "<img" not in page
        assert "<script>" not in page
        assert "\u202e" not in page
        assert "&lt;img src=x onerror=alert(1)&gt;\\u202egnp.exe" in page


def test_ids_when_they_are_none_then_an_error_page_answers(browser: Browser) -> None:
    for path, status in (
        ("/jobs/x", 400),
        ("/jobs/0", 400),
        ("/jobs/9" + "9" * 30, 400),
        ("/jobs/٣", 400),
        ("/jobs?search=%00", 400),
        ("/jobs/99999", 404),
    ):
        assert "<h1>" in browser.get(path, status)


def test_address_when_it_ends_with_a_slash_then_no_answer_leads_from_https_to_http(browser: Browser) -> None:
    for path in ("/jobs/", "/jobs/1/cancel/", "/queues/x/"):
        assert browser.http.get(path, follow_redirects=False).status_code == 404


def test_connection_when_its_request_does_not_end_then_the_server_ends_it(web: WebPageProcess) -> None:
    assert raw(web, "GET /jobs HTTP/1.1\r\nhost: ") == ""


def test_page_when_it_is_read_only_then_no_form_is_taken(shared: DaemonProcess) -> None:
    with shared.client() as client, WebPageProcess(shared, "--read-only") as web, web.browser() as browser:
        job = submit(client, shell("exit 1"))
        end_of(client, job)

        assert "Retry" not in browser.get(f"/jobs/{job}")
        assert browser.http.post(f"/jobs/{job}/retry", data={}).status_code == 403
        assert client.get(job)["attempts"] == 1


def test_proxy_when_it_names_a_user_then_only_those_allowed_get_in(shared: DaemonProcess, tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    command = [str(BIN / "stoker"), "web", "--unix", str(path), "--allow-host", "jobs.example.org"]
    command += ["--user-header", "X-Remote-User", "--allow-user", "ann"]
    with subprocess.Popen(command, env=shared.client_environ, stdout=subprocess.PIPE, text=True) as process:
        line_with(process, process.stdout, str(path))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

        def asked(*headers: str) -> int:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(DEADLINE_S)
                connection.connect(str(path))
                lines = ["GET /jobs HTTP/1.1", "host: jobs.example.org", "connection: close", *headers, "", ""]
                connection.sendall("\r\n".join(lines).encode())
                return status_of(connection.recv(65536).decode("latin-1"))

        assert asked("X-Remote-User: ann") == 200
        assert asked("x-remote-user: ann") == 200
        assert asked("X-Remote-User: bob") == 403
        assert asked("X-Remote-User: ann, bob") == 403
        assert asked("X-Remote-User: ann", "X-Remote-User: bob") == 403
        assert asked("X_Remote_User: ann") == 401
        assert asked() == 401
        process.terminate()
    until(lambda: not path.exists())


def test_server_when_it_is_interrupted_then_it_ends_at_once_beside_open_pages(shared: DaemonProcess) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        with WebPageProcess(shared) as web, web.browser() as browser:
            with browser.http.stream("GET", "/live/jobs") as stream:
                next(stream.iter_lines())
                web.process.send_signal(number)
                _, errors = web.process.communicate(timeout=DEADLINE_S)
            assert (web.process.returncode, errors) == (0, "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", "70000"], "70000 is no port"),
        (["--port", "x"], "x"),
        (["--port", "1", "--unix", "x.sock"], "exclude each other"),
        (["--user-header", "X-User"], "belong together"),
        (["--user-header", "X-User", "--allow-user", "ann"], "needs --unix"),
        (["--token-file", "missing"], "--token-file missing"),
        (["--unix", "{file}"], "is not a socket"),
        (["--port", "{taken}"], "choose another: stoker web --port N"),
    ],
)
def test_options_when_they_are_wrong_then_the_error_names_the_remedy(
    shared: DaemonProcess, web: WebPageProcess, tmp_path: Path, options: list[str], message: str
) -> None:
    (tmp_path / "file").touch()
    taken = web.base.rpartition(":")[2]
    arguments = [option.format(file=tmp_path / "file", taken=taken) for option in options]

    result = shared.cli("web", *arguments)

    assert result.returncode != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_token_file_when_others_can_read_it_or_it_is_short_then_it_is_refused(
    shared: DaemonProcess, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("0123456789abcdef0123456789abcdef\n")
    file.chmod(0o644)
    assert "others can read it" in shared.cli("web", "--token-file", str(file)).stderr
    file.chmod(0o600)
    with WebPageProcess(shared, "--token-file", str(file)) as web:
        assert "token" not in web.address
        with Browser(web.base) as browser:
            browser.get("/jobs?token=0123456789abcdef0123456789abcdef")
    file.write_text("short\n")
    assert "at least 16" in shared.cli("web", "--token-file", str(file)).stderr


def test_socket_when_systemd_passes_a_public_address_then_it_is_refused(shared: DaemonProcess) -> None:
    with socket.socket() as public:
        public.bind(("0.0.0.0", 0))
        public.listen()
        script = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ.update(LISTEN_PID=str(os.getpid()))"
        result = subprocess.run(
            [
                sys.executable,
                "-c",
                f"{script}; os.execvp('stoker', sys.argv[2:])",
                str(public.fileno()),
                "stoker",
                "web",
            ],
            env={**shared.client_environ, "LISTEN_FDS": "1"},
            pass_fds=[public.fileno(), 3],
            capture_output=True,
            text=True,
            check=False,
        )
    assert (result.returncode, "for this host only" in result.stderr) == (64, True), result.stderr


def test_server_when_no_daemon_answers_then_a_note_names_that_and_pages_come(tmp_path: Path) -> None:
    command = [str(BIN / "stoker"), "--socket", str(tmp_path / "none"), "web", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            said = line_with(process, process.stderr, "no daemon answers")
            address = process.stdout.readline().strip()
            with httpx.Client(follow_redirects=True, timeout=DEADLINE_S) as browser:
                page = browser.get(address)
        finally:
            process.terminate()

    assert "the page shows this until one answers" in said
    assert page.status_code == 503
