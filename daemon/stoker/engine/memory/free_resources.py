"""The free amount of each resource, and its capacity.

Owns looking them up one by one, when they are asked for: there may be thousands.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping

from stoker.core.job.model import Resource
from stoker.core.rate import KEY_PREFIX
from stoker.engine.memory.rates import LiveRates
from stoker.engine.memory.workflows import LiveWorkflows


class RealCapacities(Mapping[str, int]):
    """The capacity of each resource that a person has made."""

    def __init__(self, resources: Mapping[str, Resource]) -> None:
        self._resources = resources

    def __getitem__(self, name: str) -> int:
        return self._resources[name].capacity

    def __iter__(self) -> Iterator[str]:
        return iter(self._resources)

    def __len__(self) -> int:
        return len(self._resources)


class FreeResources(Mapping[str, int]):
    """The free amount of each resource and of the width of each group of steps, and the tokens of each key, at a time.

    `used`: what open attempts hold.
    """

    def __init__(
        self,
        resources: Mapping[str, Resource],
        used: Mapping[str, int],
        workflows: LiveWorkflows,
        rates: LiveRates,
        now_ms: int,
    ) -> None:
        self._resources = resources
        self._used = used
        self._workflows = workflows
        self._rates = rates
        self._now_ms = now_ms

    def __getitem__(self, name: str) -> int:
        if name.startswith(KEY_PREFIX):
            tokens = self._rates.tokens(name, self._now_ms)
            return sys.maxsize if tokens is None else tokens
        resource = self._resources.get(name)
        capacity = self._workflows.widths[name] if resource is None else resource.capacity
        return capacity - self._used[name]

    def __iter__(self) -> Iterator[str]:
        yield from {**self._resources, **self._workflows.widths}

    def __len__(self) -> int:
        return len({**self._resources, **self._workflows.widths})
