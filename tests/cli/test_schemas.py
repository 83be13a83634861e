"""`stoker schema`: needs no daemon, prints one document, names what there is."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from stoker.cli.schemas import schema
from stoker.rpc.json_schemas import SCHEMAS
from tests.support.daemon import BIN

if TYPE_CHECKING:
    from tests.cli.conftest import Desk


@pytest.mark.parametrize("name", SCHEMAS)
def test_schema_when_it_is_piped_then_it_is_one_json_document(desk: Desk, name: str) -> None:
    ended = desk.stoker("schema", name)

    assert (ended.status, ended.err) == (0, "")
    assert json.loads(ended.out)["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_schema_when_no_daemon_runs_then_it_is_printed() -> None:
    done = subprocess.run(
        [BIN / "stoker", "--socket", "/nonexistent/socket", "schema", "workflow"], capture_output=True, check=True
    )

    assert json.loads(done.stdout)["title"] == "A workflow of Stoker"


def test_schema_when_no_name_is_given_then_all_are_listed(desk: Desk) -> None:
    ended = desk.stoker("schema")

    assert [line.split()[0] for line in ended.out.splitlines()[1:]] == list(SCHEMAS)
    assert schema.words.split("|") == list(SCHEMAS), "what --help and completions offer"


def test_schema_when_the_name_is_misspelt_then_the_nearest_is_named(desk: Desk) -> None:
    ended = desk.stoker("schema", "workflows")

    assert ended.status == 64
    assert ended.err == "stoker: there is no schema 'workflows'\nhint: did you mean workflow?\n"
