"""The secrets that the steps of a flow name: each is declared, and each value was sent."""

from __future__ import annotations

from typing import Any

import pytest

from stoker.core.errors import FlowInvalid
from stoker.rpc.flows import planned

DECLARED = {"TOKEN": "token.txt", "KEY": "env:KEY"}


def step(**fields: Any) -> dict[str, Any]:
    return {"command": "/bin/true", **fields}


def mistakes(steps: dict[str, Any], **flow: Any) -> list[tuple[str, str]]:
    with pytest.raises(FlowInvalid) as refused:
        planned({"name": "f", "steps": steps, **flow})
    return [(one["path"], f"{one['message']} {one.get('hint')}") for one in refused.value.details["errors"]]


def test_step_when_its_secrets_are_declared_then_it_keeps_their_names() -> None:
    plan = planned({"name": "f", "secrets": DECLARED, "steps": {"a": step(secrets=["TOKEN", "KEY"], each=["x", "y"])}})

    assert [one.sent.secrets for one in plan.steps] == [("TOKEN", "KEY")] * 2


def test_step_when_a_secret_is_not_declared_then_the_mistake_names_the_nearest() -> None:
    (near, far) = mistakes({"a": step(secrets=["TOKEM", "OTHER"])}, secrets=DECLARED)

    assert near[0] == "steps.a.secrets[0]"
    assert "'TOKEM'" in near[1]
    assert "TOKEN" in near[1]
    assert far[0] == "steps.a.secrets[1]"
    assert "[secrets] OTHER =" in far[1]


@pytest.mark.parametrize("secrets", [["1A"], [""], "TOKEN", {"TOKEN": "x"}, ["A"] * 33])
def test_step_when_the_names_are_no_names_then_it_is_refused(secrets: object) -> None:
    ((path, _),) = mistakes({"a": step(secrets=secrets)}, secrets=DECLARED)

    assert path.startswith("steps.a.secrets")


def test_group_when_its_list_comes_later_then_it_cannot_have_secrets() -> None:
    later = {"step": "list", "output": "files"}
    inner = {"name": "g", "secrets": DECLARED, "steps": {"b": step(secrets=["KEY"])}}
    steps = {"list": step(), "a": step(secrets=["TOKEN"], each=later), "c": {"workflow": inner, "each": later}}

    found = mistakes(steps, secrets=DECLARED)

    assert [path for path, _ in found] == ["steps.a.each", "steps.c.each"]
    assert all("cannot have secrets" in text for _, text in found)
    planned({"name": "f", "steps": {"list": step(), "c": step(each=later)}})  # without secrets it may
