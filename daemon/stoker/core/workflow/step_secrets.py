"""The secrets of a flow: its table `secrets` has their sources, and each step names those that it gets.

Owns the mistakes in these names. The values are sent beside the flow, so a flow that is stored or shown has none.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import UNSET

from stoker.core.similar_names import did_you_mean
from stoker.core.workflow.definition import Flow, ItemSource, StepParams
from stoker.core.workflow.mistakes import Mistake

_DECLARE = 'declare it: [secrets] {name} = "FILE", "env:VARIABLE" or "-"'


def wrong_secrets(flow: Flow, path: str, step: StepParams) -> Iterator[Mistake]:
    if step.secrets is not UNSET:
        for index, name in enumerate(step.secrets):
            if name not in flow.secrets:
                hint = did_you_mean(name, flow.secrets) or _DECLARE.format(name=name)
                yield Mistake(f"{path}.secrets[{index}]", f"the flow has no secret {name!r}", hint)
    if isinstance(step.each, ItemSource) and _has_some(step):
        message = "a group whose list comes from a step cannot have secrets: they are not kept for later steps"
        yield Mistake(f"{path}.each", message, "give the list itself, or let the command read a file")


def _has_some(step: StepParams) -> bool:
    inner = () if step.workflow is UNSET else step.workflow.entries.values()
    return bool(step.secrets) or any(_has_some(one) for one in inner)
