"""Each field of a job and of an attempt is either hidden from operators, or known to be harmless."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast, get_type_hints

from stoker.core import views
from stoker.core.redaction import HIDDEN_OF_ATTEMPTS, HIDDEN_OF_JOBS, redacted_attempt, redacted_job, without_values

if TYPE_CHECKING:
    from stoker.core.views import AttemptView, JobView

# Numbers, times and states; the name and the labels, which say what a job is; and names that admins give.
SEEN_OF_JOBS = {
    "attempts",
    "awaits_token",
    "backoff_factor",
    "base_delay_ms",
    "checkpoint_exit_code",
    "created_at",
    "deadline",
    "debounce_by",
    "debounce_max_ms",
    "debounce_ms",
    "execution_mode",
    "exit_code",
    "expires_at",
    "failures",
    "finished_at",
    "frozen",
    "grace_ms",
    "heartbeat_ms",
    "hook",
    "hook_change",
    "id",
    "labels",
    "last_heartbeat",
    "limits",
    "max_attempts",
    "max_delay_ms",
    "max_log_bytes",
    "max_orphanings",
    "name",
    "needs",
    "needs_open",
    "nice",
    "no_retry_exit_codes",
    "notices_ignored",
    "not_needed",
    "notify",
    "on_orphan",
    "orphanings",
    "owner_uid",
    "pid",
    "priority",
    "progress",
    "queue",
    "rate_key",
    "reason",
    "resources",
    "reused",
    "run_at",
    "schedule",
    "scheduled_for",
    "signal",
    "stale_ms",
    "started_at",
    "state",
    "step",
    "stopping",
    "success_exit_codes",
    "superseded_by",
    "supersede_running",
    "survive",
    "timeout_ms",
    "trace_id",
    "ttl_ms",
    "umask",
    "undecided",
    "unresponsive",
    "unresponsive_kill_ms",
    "unresponsive_warn_ms",
    "wake_at",
    "warn_before_ms",
    "warn_signal",
    "when",
    "workflow_id",
}
SEEN_OF_ATTEMPTS = {
    "adopted",
    "created_at",
    "ended_at",
    "exit_code",
    "launcher",
    "limits",
    "log_bytes",
    "max_rss_kib",
    "ordinal",
    "outcome",
    "pid",
    "run_id",
    "signal",
    "started_at",
    "stop_reason",
    "stopped",
    "system_ms",
    "unstoppable",
    "user_ms",
}


def test_job_when_redacted_then_what_it_runs_is_hidden() -> None:
    view = cast("JobView", {"id": 3, "name": "n", "command": "/bin/secret", "args": ["x"], "env_vars": {"A": "x"}})

    shown = redacted_job(view)

    assert (shown["id"], shown["name"], shown["command"]) == (3, "n", "(hidden)")
    assert (shown["args"], shown["env_vars"], shown["working_dir"]) == ([], {}, "(hidden)")


def test_attempt_when_redacted_then_its_error_is_hidden() -> None:
    shown = redacted_attempt(cast("AttemptView", {"ordinal": 1, "error": "/home/a: no such file"}))

    assert (shown["ordinal"], shown["error"]) == (1, None)


def test_fields_when_all_are_listed_then_each_is_hidden_or_may_be_seen() -> None:
    assert set(get_type_hints(views.JobView)) == SEEN_OF_JOBS | set(HIDDEN_OF_JOBS)
    assert set(get_type_hints(views.AttemptView)) == SEEN_OF_ATTEMPTS | set(HIDDEN_OF_ATTEMPTS)
    assert not SEEN_OF_JOBS & set(HIDDEN_OF_JOBS)


def test_document_when_variables_are_named_as_secrets_then_their_values_are_hidden() -> None:
    env = {"MY_TOKEN_2": "x", "Token": {"base64": "eA=="}, "MODE": "fast", "A.B": "y"}
    document = {
        "spec": {"env": env, "args": ["MY_TOKEN=x"]},
        "steps": [{"env": env}, 3],
        "env": None,
        "MY_TOKEN": "a",
    }

    shown = without_values(document, ("*TOKEN*", "a.b"))

    hidden = {"MY_TOKEN_2": "(hidden)", "Token": "(hidden)", "MODE": "fast", "A.B": "(hidden)"}
    assert shown == {
        "spec": {"env": hidden, "args": ["MY_TOKEN=x"]},
        "steps": [{"env": hidden}, 3],
        "env": None,
        "MY_TOKEN": "a",
    }
    assert without_values(document, ()) == document
    assert without_values({"env": {"AXB": "1", "MODE": "2"}}, ("a.b", "mod")) == {"env": {"AXB": "1", "MODE": "2"}}
