"""The rows of the table of methods for hooks.

Owns their handlers, by the same rules as methods.py.
"""

from __future__ import annotations

from typing import Any

from stoker.core.hooks import HookOn
from stoker.core.requests import Name, Params
from stoker.rpc.schema import NoParams
from stoker.rpc.table import Method, MethodKind


class HookParam(Params, frozen=True, kw_only=True):
    name: Name


class HookTestParams(HookParam, frozen=True, kw_only=True):
    """`on`: the kind of the change that is made up; left out, the first one that the hook names."""

    on: HookOn | None = None


HOOK_METHODS: dict[str, Method[Any]] = {
    "hook.list": Method(NoParams, lambda service, _peer, _sent: service.hooks.list(), MethodKind.READ),
    "hook.get": Method(HookParam, lambda service, _peer, sent: service.hooks.get(sent.name), MethodKind.READ),
    "hook.test": Method(
        HookTestParams, lambda service, _peer, sent: service.hooks.test(sent.name, sent.on), brings_work=True
    ),
}
