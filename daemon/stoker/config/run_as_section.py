"""The section [run_as]: as whom jobs run.

As in settings.py the annotations are evaluated (no `from __future__`).
"""

from typing import Annotated, Literal

from msgspec import Meta

from stoker.config.section import Section, says

PATH = r"^/(?:[^/\0]+/)*[^/\0]+\Z"


def a_path(text: str) -> Meta:
    return Meta(pattern=PATH, title="an absolute path", description=text)


class RunAsSettings(Section, frozen=True):
    """As whom jobs run. For "submitter" stoker-launcher.service must run (docs/run-as.md)."""

    user: Annotated[
        Literal["service", "submitter"], says("as the user of the daemon, or each job as the user who submitted it")
    ] = "service"
    directory: Annotated[str, a_path("where each of these users has a directory; as in /etc/stoker/run-as.toml")] = (
        "/var/lib/stoker-users"
    )
    spawner: Annotated[str, a_path("socket of stoker-launcher.service")] = "/run/stoker-launcher/spawner.sock"
