"""The rows of the table of methods for those who look at all jobs at once.

Owns their parameters and handlers, by the same rules as methods.py.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from stoker.core.requests import MAX_INT, Bound, Instant, JobId, PageLimit, Params
from stoker.rpc.schema import NoParams
from stoker.rpc.table import Method, MethodKind


class OverviewParams(Params, frozen=True, kw_only=True):
    """`limit`: of running jobs, and of failed ones."""

    limit: Annotated[int, Meta(ge=1, le=100)] = 20


class AttemptListParams(Params, frozen=True, kw_only=True):
    """`until`: left out, now. `before`: the `next` of the page before, which has newer attempts."""

    since: Instant
    until: Instant | None = None
    before: Annotated[str, Meta(pattern=r"^[0-9]{1,15}/[0-9.a-f]{1,80}\Z")] | None = None
    limit: PageLimit = 500


class RecoveryListParams(Params, frozen=True, kw_only=True):
    """`before`: only starts before that one."""

    before: JobId = MAX_INT
    limit: PageLimit = 50


class RecoveryGetParams(Params, frozen=True, kw_only=True):
    """`after`: how many of its decisions to leave out."""

    epoch: JobId
    after: Bound = 0
    limit: PageLimit = 500


OVERVIEW_METHODS: dict[str, Method[Any]] = {
    "system.overview": Method(
        OverviewParams, lambda service, peer, sent: service.overview.overview(sent.limit, peer.viewer), MethodKind.READ
    ),
    "system.load": Method(NoParams, lambda service, _peer, _sent: service.overview.load(), MethodKind.READ),
    "attempt.list": Method(
        AttemptListParams,
        lambda service, peer, sent: service.overview.attempts(
            sent.since, sent.until, sent.before, sent.limit, peer.viewer
        ),
        MethodKind.READ,
    ),
    "recovery.list": Method(
        RecoveryListParams,
        lambda service, _peer, sent: service.overview.recoveries(sent.before, sent.limit),
        MethodKind.READ,
    ),
    "recovery.get": Method(
        RecoveryGetParams,
        lambda service, _peer, sent: service.overview.recovery(sent.epoch, sent.after, sent.limit),
        MethodKind.READ,
    ),
}
