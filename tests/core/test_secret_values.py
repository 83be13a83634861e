"""The values of secrets: their limits, and that their text does not show them."""

from __future__ import annotations

import msgspec
import pytest

from stoker.core.errors import StokerError
from stoker.core.job import events as ev
from stoker.core.job.lifecycle import step
from stoker.core.job.model import Reason, State
from stoker.core.job.secret_values import MAX_SECRET_BYTES, MAX_SECRETS, SecretValue
from stoker.core.requests import JobParams
from stoker.rpc.schema import read_params
from tests.support.jobs import NOW, attempt, job

SHOWN = "c2hvd24="


def test_value_when_shown_then_its_bytes_are_not_in_the_text() -> None:
    value = SecretValue.of(b"shown")

    assert value.data == b"shown"
    for text in (repr(value), str(value), repr({"A": value}), repr(JobParams(command="x", secrets={"A": value}))):
        assert SHOWN not in text
        assert "shown" not in text


@pytest.mark.parametrize(
    ("secrets", "field", "problem"),
    [
        ({"A": {"base64": ""}}, "secrets.A", "0 bytes"),
        ({"A": {"base64": "%%%"}}, "secrets.A", "not base64"),
        ({"A": msgspec.to_builtins(SecretValue.of(bytes(MAX_SECRET_BYTES)))["base64"] + "AAAA"}, "secrets.A", "shown"),
        ({"A": SHOWN}, "secrets.A", "not shown"),
        ({"A": {"base64": SHOWN, "x": 5}}, "secrets.A.x", "no such field"),
        ({"A": {"base64": [SHOWN]}}, "secrets.A.base64", "not shown"),
        (SHOWN, "secrets", "not shown"),
        ({"1A": {"base64": SHOWN}}, "secrets.1A", "not a valid name"),
        ({f"A{number}": {"base64": SHOWN} for number in range(MAX_SECRETS + 1)}, "secrets", "not allowed"),
    ],
)
def test_request_when_a_secret_is_wrong_then_its_value_is_not_in_the_error(
    secrets: object, field: str, problem: str
) -> None:
    with pytest.raises(StokerError) as refused:
        read_params({"command": "x", "secrets": secrets}, JobParams)

    text = f"{refused.value.message} {refused.value.hint} {refused.value.details}"
    assert refused.value.message.startswith(f"{field}: ")
    assert problem in text
    assert SHOWN not in text


def test_start_when_the_secrets_are_gone_then_the_job_is_held_for_that_reason() -> None:
    running = job(State.RUNNING, attempts=1)

    after = step(running, attempt(running), ev.Refused("its secrets are gone (A)", Reason.SECRETS), NOW)

    assert (after.job.state, after.job.reason) == (State.HELD, Reason.SECRETS)
    assert after.attempt is not None
    assert after.attempt.outcome is not None
    assert after.attempt.outcome.error == "its secrets are gone (A)"
