"""`stoker schema`: JSON Schemas for editors and other programs.

Owns the list of names; `rpc/json_schemas.py` makes the schemas. Needs no daemon.
"""

from __future__ import annotations

import json

from stoker.cli.kit import render, table
from stoker.cli.kit.parser import Command, Given
from stoker.core.errors import UsageError
from stoker.core.similar_names import did_you_mean
from stoker.rpc.json_schemas import SCHEMAS


@Command(
    words="spec|workflow|settings|protocol",
    least=0,
    examples=(
        "stoker schema workflow > workflow.schema.json",
        "stoker schema settings > stoker.schema.json",
        "stoker schema",
    ),
)
def schema(given: Given) -> None:
    """Without a name: list the schemas (draft 2020-12). No daemon is needed. An editor with a language server for TOML
    completes and checks a file whose first line names its schema: `#:schema workflow.schema.json`.
    """
    if not given["words"]:
        table.show(("NAME", "DESCRIBES"), [(name, make.__doc__ or "") for name, make in SCHEMAS.items()])
        return
    (name,) = given["words"]
    if name not in SCHEMAS:
        hint = did_you_mean(name, SCHEMAS) or f"known: {', '.join(SCHEMAS)}"
        raise UsageError(f"there is no schema {name!r}", hint=hint)
    render.line(json.dumps(SCHEMAS[name](), indent=2))
