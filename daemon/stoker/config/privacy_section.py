"""The section [privacy]: what the daemon shows of the environment of jobs.

As in settings.py the annotations are evaluated (no `from __future__`).
"""

from typing import Annotated

from msgspec import Meta

from stoker.config.section import Section, says

NamePattern = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9_*]{1,128}\Z", title="names of environment variables, in which * is any text")
]


class PrivacySettings(Section, frozen=True):
    """The variables of jobs in views. A value that no other program may read is given with --secret."""

    redact_env: Annotated[
        tuple[NamePattern, ...], says("variables whose values are not shown; upper and lower case are the same")
    ] = ("*TOKEN*", "*SECRET*", "*PASSWORD*", "*KEY*")
