"""The words of flow files, as this version has them: what a reader says in others is left out, with a remark.

Owns what is left out with a word: a step whose condition cannot be said is left out as a whole, so that it never runs
by mistake, and so is one that has nothing else to run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stoker.cli.imports.draft import Remark, contracted
from stoker.core.workflow.definition import StepParams
from stoker.rpc.flows import FlowHead

if TYPE_CHECKING:
    from stoker.cli.imports.draft import Draft, DraftStep

_ESSENTIAL = ("if", "workflow")
_OF_STEP = frozenset(StepParams.__struct_encode_fields__)
_OF_FLOW = frozenset(FlowHead.__struct_encode_fields__)


def keep_known(draft: Draft, source: str) -> None:
    """Take all other words out of the draft, and remark on each."""

    def remark(what: str) -> None:
        draft.remarks.append(
            Remark(source, None, f"{what} is not mapped: flow files of this version have no such word")
        )

    for key in [key for key in draft.head if key not in _OF_FLOW]:
        remark(key)
        del draft.head[key]
    if draft.finals and "finally" not in _OF_FLOW:
        remark(f"finally: {', '.join(draft.finals)}")
        draft.finals.clear()
    for name, step in draft.steps.items():
        for key in [key for key in step.fields if key not in _OF_STEP]:
            remark(f"steps.{name}.{key}")
    kept = {name: step for name, step in draft.steps.items() if not _loses_essence(step)}
    needs = contracted({name: step.needs for name, step in draft.steps.items()}, kept)
    for name, step in kept.items():
        step.needs = needs[name]
        step.fields = {key: value for key, value in step.fields.items() if key in _OF_STEP}
        if not step.needs:
            step.fields.pop("when", None)
    draft.steps = kept


def _loses_essence(step: DraftStep) -> bool:
    return any(word in step.fields and word not in _OF_STEP for word in _ESSENTIAL)
