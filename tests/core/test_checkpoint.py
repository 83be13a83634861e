"""How checkpoints are packed and sealed: damaged data is never returned."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from stoker.core.errors import CheckpointDamaged, CheckpointTooLarge
from stoker.core.workflow.checkpoint import (
    GZIP_ABOVE_BYTES,
    MAX_BYTES,
    Checkpoint,
    CheckpointKind,
    chain_of,
    opened,
    pack,
    verified,
)
from tests.support.jobs import checkpoint


def sealed(data: bytes) -> Checkpoint:
    return checkpoint(data, 2, id=3, status="running", at=5, job_id=7, step="compile", run_id="7.1.a")


@given(st.binary(max_size=1_000))
def test_checkpoint_when_sealed_then_its_data_comes_back_unchanged(data: bytes) -> None:
    assert opened(sealed(data)) == data


@pytest.mark.parametrize(("size", "encoding"), [(GZIP_ABOVE_BYTES, "plain"), (GZIP_ABOVE_BYTES + 1, "gzip")])
def test_encode_when_the_data_is_above_the_limit_then_it_is_packed(size: int, encoding: str) -> None:
    data = b"x" * size

    checkpoint = sealed(data)

    assert (checkpoint.encoding, checkpoint.size, opened(checkpoint)) == (encoding, size, data)
    assert verified(checkpoint) == pack(data) == pack(data)


def test_encode_when_the_data_is_too_large_then_the_error_names_size_and_limit() -> None:
    with pytest.raises(CheckpointTooLarge, match=rf"{MAX_BYTES + 1} bytes; the limit of a checkpoint is {MAX_BYTES}"):
        pack(bytes(MAX_BYTES + 1))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("chain", "w2"), ("seq", 3), ("parent", 2), ("kind", CheckpointKind.STEP), ("job_id", 8), ("step", "link"),
        ("run_id", "7.2.b"), ("status", "failed"), ("version", 1), ("at", 6), ("encoding", "gzip"), ("size", 9),
        ("data", b"other"), ("checksum", bytes(32)),
    ],
)  # fmt: skip
def test_checkpoint_when_any_field_was_touched_then_it_is_not_opened(field: str, value: Any) -> None:
    with pytest.raises(CheckpointDamaged) as refused:
        opened(replace(sealed(b"data"), **{field: value}))

    assert refused.value.hint is not None


def test_checkpoint_when_it_is_of_the_first_version_then_it_is_still_opened() -> None:
    """Its checksum was made by the release that stored it: SHA-256 over its fields, and over its data after them."""
    old = Checkpoint(
        id=3,
        chain="w1",
        seq=2,
        parent=1,
        kind=CheckpointKind.PROGRESS,
        status="half",
        at=5,
        data=b"data",
        size=4,
        job_id=7,
        step="compile",
        run_id="7.1.a",
        version=1,
        checksum=bytes.fromhex("fb9129f4e5519d6433d6a7eca558d8c350b163472358cfbf49cefdf8719c1e32"),
    )

    assert opened(old) == b"data"
    with pytest.raises(CheckpointDamaged):
        opened(replace(old, data=b"DATA"))


def test_chain_when_a_job_is_no_step_then_it_has_its_own() -> None:
    assert (chain_of(4, 7), chain_of(None, 7)) == ("w4", "j7")
