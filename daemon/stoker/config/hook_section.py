"""A section [hooks.NAME] of the settings file: its keys, their types and help.

As in settings.py the annotations are evaluated (no `from __future__`). `core.hooks` says which filters apply to which
changes.
"""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct, field

from stoker.core.hooks import Hook, HookOn
from stoker.core.requests import MAX_LABELS, AbsolutePath, Name, Path, Text, Title


class HookSection(Struct, frozen=True, kw_only=True):
    """A hook: the changes that it is for, and the command that each of them runs as a job of the queue `hooks`."""

    on: Annotated[tuple[HookOn, ...], Meta(min_length=1, description="the changes that run the command")]
    queue: Annotated[Name, Meta(description="only changes of this queue and of its jobs")] | None = None
    workflow: Annotated[Title, Meta(description="only changes of workflows of this name and their steps")] | None = None
    labels: Annotated[
        dict[Name, Title],
        Meta(max_length=MAX_LABELS, title="a table of texts", description="only changes of jobs with all these labels"),
    ] = field(default_factory=dict)
    command: Annotated[Path, Meta(title="the path or the name of a program", description="the program")]
    args: Annotated[tuple[Text, ...], Meta(description="its arguments")] = ()
    env: Annotated[dict[Text, Text], Meta(title="a table of texts", description="variables of its environment")] = (
        field(default_factory=dict)
    )
    working_dir: Annotated[AbsolutePath, Meta(title="an absolute path", description="its working directory")] = "/"

    def hook(self, name: str) -> Hook:
        return Hook(name=name, **msgspec.structs.asdict(self))
