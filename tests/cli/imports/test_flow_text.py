"""The text of an imported flow file: it reads back as the flow that it was made of, whatever the texts hold."""

from __future__ import annotations

import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from stoker.cli.imports.draft import Draft, DraftStep, StepNames, contracted
from stoker.cli.imports.flow_text import flow_text
from stoker.rpc.flows import STEP_NAME

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.sampled_from(
    ["'''", "a\nb\n", "\na", 'it\'s """\nx', "x\n'", "\\\n", "\r\n", "\x00\x7f\n", "x" * 200]
)
values = st.recursive(
    texts | st.integers(-(2**63), 2**63 - 1) | st.booleans(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)
steps = st.builds(DraftStep, st.dictionaries(texts, values, max_size=4), st.lists(texts, max_size=20), texts)


@given(steps=st.dictionaries(texts, steps, max_size=3), head=st.dictionaries(st.just("defaults"), values), origin=texts)
def test_flow_text_when_it_is_read_then_it_is_the_flow(
    steps: dict[str, DraftStep], head: dict[str, Any], origin: str
) -> None:
    draft = Draft("flow", steps, head, finals=steps)

    flow = tomllib.loads(flow_text(draft, origin))

    assert {"steps": {}, **flow} == draft.flow()


@given(originals=st.lists(texts, max_size=30, unique=True))
def test_step_names_when_originals_are_any_texts_then_names_are_valid_and_unlike(originals: list[str]) -> None:
    names = StepNames()

    given_names = [names[original] for original in originals]

    assert all(STEP_NAME.match(name) for name in given_names)
    assert len(set(given_names)) == len(originals)
    assert given_names == [names[original] for original in originals]


def test_needs_when_steps_in_between_are_left_out_then_those_behind_are_needed() -> None:
    needs = {"all": ["lib", "prog"], "lib": ["a", "b"], "prog": ["lib", "a"], "a": ["dir"], "b": [], "dir": []}

    assert contracted(needs, ["prog", "a", "b"]) == {"prog": ["a", "b"], "a": [], "b": []}
