"""Rebuilding the context of a workflow from its chain of checkpoints in the store.

If the whole context that a rebuild starts from is damaged, the one before it is used, up to the damage. A chain with a
gap is refused (`core.workflow.context`). Invariant: the context is exactly what was known at its `seq`, and `damaged`
names the checkpoint that prevented a later one.
"""

from __future__ import annotations

from msgspec.structs import replace

from stoker.core.errors import ChainBroken, CheckpointDamaged, CheckpointNotFound
from stoker.core.workflow.checkpoint import Checkpoint, chain_of
from stoker.core.workflow.context import Context, rebuild
from stoker.store import checkpoints
from stoker.store.reader import Reader
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log


async def context_at(reader: Reader, chain: str, seq: int) -> Context:
    """The context at `seq`, or at the newest sound checkpoint before it. Raises ChainBroken."""
    damaged = None
    while True:
        links = await reader.run(checkpoints.up_to, chain, seq)
        try:
            context = rebuild(links)
        except CheckpointDamaged as error:
            damaged, seq = links[0].id, links[0].seq - 1
            log(LogEvent.CHECKPOINT_DAMAGED, checkpoint=damaged, chain=chain, error=error)
            if not seq:
                raise ChainBroken(
                    f"checkpoint {damaged} ({chain}, seq 1) is damaged, and there is none before it",
                    hint="a later one may be sound: stoker checkpoint ls; or resume with stoker workflow resume",
                    id=damaged,
                ) from error
            continue
        if context.damaged is not None:
            log(LogEvent.CHECKPOINT_DAMAGED, checkpoint=context.damaged, chain=chain, used_seq=context.seq)
        return context if damaged is None else replace(context, damaged=context.damaged or damaged)


async def check(reader: Reader, workflow_id: int, *, tolerant: bool) -> str | None:
    """A warning about a damaged chain, for a workflow that is to be resumed.

    A resume uses the rows of the steps and not the chain, so damage is only a warning; a gap raises ChainBroken unless
    `tolerant`.
    """
    newest = await target(reader, workflow_id, None)
    try:
        context = await context_at(reader, newest.chain, newest.seq)
    except ChainBroken as broken:
        if not tolerant:
            broken.hint = (
                f"stoker workflow resume {workflow_id} --no-verify goes on from the states of the steps; "
                f"stoker checkpoint ls {workflow_id} shows what is there"
            )
            raise
        return f"{broken.message}; the states of the steps were taken from the database"
    if context.damaged is None:
        return None
    return f"checkpoint {context.damaged} is damaged; the states of the steps were taken from the database"


async def target(reader: Reader, workflow_id: int, ident: int | None) -> Checkpoint:
    """The checkpoint of a workflow with this id (None: the newest), without its data. Raises CheckpointNotFound."""
    chain, hint = chain_of(workflow_id), f"stoker checkpoint ls {workflow_id}"
    if ident is None:
        newest = await reader.run(checkpoints.page, chain, None, 1)
        if not newest:
            raise CheckpointNotFound(f"workflow {workflow_id} has no checkpoint", hint=hint)
        return newest[0]
    checkpoint = await reader.run(checkpoints.about, ident)
    if checkpoint is None or checkpoint.chain != chain:  # in the same words: it may be one of another user
        message = f"to: workflow {workflow_id} has no checkpoint {ident}"
        raise CheckpointNotFound(message, hint=hint, path="to", id=ident)
    return checkpoint
