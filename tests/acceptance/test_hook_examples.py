"""The ready commands of hooks, as config/examples/hooks has them: mail, webhook and desktop notice, with real jobs.

The mail goes to a sendmail that writes it down, the notice to a notify-send that does; the webhook is posted by curl to
a real HTTP server.
"""

from __future__ import annotations

import email
import json
import shutil
from email import policy
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.facts import until
from tests.support.work import end_of, lines, shell, submit

if TYPE_CHECKING:
    from collections.abc import Iterator

    import stoker
    from tests.support.daemon import DaemonProcess

EXAMPLES = Path(__file__).parents[2] / "config" / "examples" / "hooks"
NAME = "nächtlich <b>\nBcc: all@example.com"


class Webhook(HTTPServer):
    """Refuses the first post, as a server that restarts does."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.posts: list[tuple[str | None, Any]] = []


class Answer(BaseHTTPRequestHandler):
    server: Webhook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posts.append((self.headers["Idempotency-Key"], json.loads(body)))
        self.send_response(503 if len(self.server.posts) == 1 else 204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with Webhook() as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def program(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def declare(daemon: DaemonProcess, example: str, **env: str) -> None:
    """Start a daemon with one hook, which runs an example."""
    variables = ", ".join(f"{name} = {json.dumps(value)}" for name, value in env.items())
    daemon.config.write_text(
        f'[hooks.example]\non = ["job.failed"]\ncommand = "{EXAMPLES / example}"\nargs = ["ops@example.com"]\n'
        f"env = {{ {variables} }}\n[queues.hooks.defaults]\nmax_attempts = 3\nbase_delay_ms = 10\n"
    )
    daemon.start()


def fail(client: stoker.Client) -> int:
    """The job of the hook for a job that fails."""
    job = submit(client, shell("exit 3"), name=NAME)
    end_of(client, job)
    (run,) = until(lambda: client.call("hook.get", {"name": "example"})["runs"])
    assert end_of(client, run["job"]) == ("succeeded", "exit")
    return job


def test_mail_when_a_job_fails_then_sendmail_gets_it_whole(stopped_daemon: DaemonProcess, tmp_path: Path) -> None:
    box = tmp_path / "box"
    sendmail = program(tmp_path / "sendmail", f'printf "%s\\n" "$@" > {box}.to; cat > {box}')
    declare(stopped_daemon, "mail-by-sendmail", SENDMAIL=str(sendmail))

    with stopped_daemon.client() as client:
        job = fail(client)

    mail = email.message_from_bytes(box.read_bytes(), policy=policy.default)
    assert lines(Path(f"{box}.to")) == ["-i", "--", "ops@example.com"]
    assert mail["To"] == "ops@example.com"
    assert f"job {job} (n??chtlich <b> Bcc: all@example.com) failed: exit code 3" in mail["Subject"]
    assert mail["Bcc"] is None, "a name cannot add a header"
    body = mail.get_content()
    assert body.startswith(f"job {job} (nächtlich <b> Bcc: all@example.com) failed: exit code 3\n")
    assert json.loads(body.partition("JSON:")[2])["job"]["name"] == NAME


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_webhook_when_the_server_refuses_once_then_the_job_posts_it_again(
    stopped_daemon: DaemonProcess, webhook: Webhook
) -> None:
    declare(stopped_daemon, "webhook-by-curl", WEBHOOK_URL=f"http://127.0.0.1:{webhook.server_port}/x")

    with stopped_daemon.client() as client:
        job = fail(client)

    (first, told), (second, again) = webhook.posts
    assert first == second is not None, "a server can tell that it is the same change"
    assert told == again
    assert (told["on"], told["job"]["id"], told["job"]["name"]) == ("job.failed", job, NAME)


def test_notice_when_a_job_fails_then_notify_send_shows_it(stopped_daemon: DaemonProcess, tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    program(tmp_path / "notify-send", f'printf "%s\\n" "$DBUS_SESSION_BUS_ADDRESS" "$@" > {shown}')
    declare(stopped_daemon, "notice-by-notify-send", PATH=f"{tmp_path}:/usr/bin:/bin")

    with stopped_daemon.client() as client:
        job = fail(client)

    bus, *arguments = lines(shown)
    assert bus.startswith("unix:path=/run/user/")
    summary = f"job {job} (nächtlich &lt;b&gt; Bcc: all@example.com) failed: exit code 3"
    assert arguments == ["--app-name=stoker", "--urgency=critical", "--", "stoker: job.failed", summary]
