"""The rights of the protocol: for each method the least role, and what its parameters name that has an owner.

Owns the literal table RIGHTS. Invariants: a method without a row is for admins alone, and a test fails; of what a
request names, each thing is the caller's own, or the row lets its role act on the things of others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from stoker.core.access import Role
from stoker.core.errors import PermissionDenied
from stoker.rpc.peer import Peer
from stoker.service.ownership import Named


class Right(NamedTuple):
    """`role`: the least that may call the method; `over_others`: the least that may name what is another user's.

    `named`: what the parameters name that has an owner; None if the handler itself looks only at what the peer may see.
    """

    role: Role
    over_others: Role = Role.ADMIN
    named: Callable[[Any], Named] | None = None


def _job(params: Any) -> Named:
    return Named(jobs=(params.id,))


def _jobs(params: Any) -> Named:
    return Named(jobs=params.ids)


def _worker(params: Any) -> Named:
    return Named(jobs=(params.job,))


def _workflow(params: Any) -> Named:
    return Named(workflow=params.id)


def _checkpoint(params: Any) -> Named:
    return Named(checkpoint=params.id)


def _of_workflow(params: Any) -> Named:
    return Named(workflow=params.workflow)


def _job_or_workflow(params: Any) -> Named:
    return Named(jobs=() if params.job is None else (params.job,), workflow=params.workflow)


USER = Right(Role.SUBMITTER)  # about the caller alone, about numbers of all, or filtered by the handler
OPERATOR = Right(Role.OPERATOR)
ADMIN = Right(Role.ADMIN)


def _owner(named: Callable[[Any], Named]) -> Right:
    return Right(Role.SUBMITTER, Role.ADMIN, named)


def _owner_or_operator(named: Callable[[Any], Named]) -> Right:
    return Right(Role.SUBMITTER, Role.OPERATOR, named)


RIGHTS: Final[Mapping[str, Right]] = {
    "job.submit": USER,
    "job.submit_many": USER,
    "job.get": _owner_or_operator(_job),
    "job.find": USER,
    "job.list": _owner_or_operator(_of_workflow),
    "job.edit": _owner(_job),
    "job.cancel": _owner_or_operator(_job),
    "job.retry": _owner(_job),
    "job.skip": _owner(_job),
    "job.hold": _owner_or_operator(_job),
    "job.release": _owner_or_operator(_job),
    "job.restart": _owner(_job),
    "job.wait": _owner(_jobs),
    "job.logs": _owner(_job),
    "job.why": _owner(_job),
    "job.environment": _owner(_job),
    "job.history": _owner(_job),
    "worker.get": _owner(_worker),
    "workflow.submit": USER,
    "workflow.get": _owner(_workflow),
    "workflow.steps": _owner(_workflow),
    "workflow.list": USER,
    "workflow.pause": _owner_or_operator(_workflow),
    "workflow.cancel": _owner_or_operator(_workflow),
    "workflow.resume": _owner(_workflow),
    "workflow.retry": _owner(_workflow),
    "workflow.skip": _owner(_workflow),
    "workflow.add_need": _owner(_workflow),
    "workflow.remove_need": _owner(_workflow),
    "workflow.rollback": _owner(_workflow),
    "checkpoint.save": USER,
    "checkpoint.get": _owner(_checkpoint),
    "checkpoint.list": _owner(_job_or_workflow),
    "schedule.add": USER,
    "schedule.list": USER,
    "schedule.get": USER,
    "schedule.next": USER,
    "schedule.remove": USER,
    "schedule.pause": USER,
    "schedule.resume": USER,
    "schedule.run": USER,
    "event.emit": USER,
    "event.list": USER,
    "watch": _owner(_job_or_workflow),
    "queue.list": USER,
    "queue.wait": USER,
    "queue.pause": OPERATOR,
    "queue.resume": OPERATOR,
    "queue.set": ADMIN,
    "resource.list": USER,
    "resource.set": ADMIN,
    "rate.list": USER,
    "rate.set": ADMIN,
    "rate.remove": ADMIN,
    "attempt.list": USER,
    "system.overview": USER,
    "system.load": USER,
    "system.status": USER,
    "system.limits": USER,
    "system.users": OPERATOR,
    "system.health": USER,
    "system.settings": ADMIN,
    "system.reload": ADMIN,
    "system.drain": ADMIN,
    "system.backup": ADMIN,
    "system.backups": ADMIN,
    "system.purge": ADMIN,
    "recovery.list": ADMIN,
    "recovery.get": ADMIN,
    "hook.list": ADMIN,
    "hook.get": ADMIN,
    "hook.test": ADMIN,
}


def denial(method: str, peer: Peer) -> PermissionDenied | None:
    """The error for a peer whose role is too low for a method."""
    least = RIGHTS.get(method, ADMIN).role
    if peer.role >= least:
        return None
    return PermissionDenied(
        f"{method} is for {least.word}s, and the role of uid {peer.uid} is {peer.role.word}",
        hint=f"ask an {least.word}: [access] of the settings file names their group",
    )


def named_by(method: str, peer: Peer, params: Any) -> Named | None:
    """The things that must be the peer's own; None if the request names none, or it may act on those of others."""
    right = RIGHTS.get(method, ADMIN)
    return None if right.named is None or peer.role >= right.over_others else right.named(params)
