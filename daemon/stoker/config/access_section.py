"""The section [access]: the users who may use the daemon, and the roles of groups.

As in settings.py the annotations are evaluated (no `from __future__`).
"""

from typing import Annotated, Literal

from msgspec import Meta

from stoker.config.section import Section, says

GROUP = r"^[^\s:]{1,64}\Z"


def a_group(text: str) -> Meta:
    """Help for a group, by its name or number."""
    return Meta(pattern=GROUP, title="the name or the number of a group", description=text)


def a_group_or_none(text: str) -> Meta:
    return Meta(pattern=rf"^\Z|{GROUP}", title='the name or the number of a group, or ""', description=text)


class AccessSettings(Section, frozen=True):
    """The users of the daemon. Root, its own user and the members of admin_group may do everything."""

    users: Annotated[
        Literal["owner", "group", "everyone"],
        says("who may submit jobs: its own user and root; also the members of group; or every user of the machine"),
    ] = "owner"
    group: Annotated[str, a_group('its members may submit if users = "group"')] = "stoker"
    operator_group: Annotated[
        str, a_group_or_none('its members also see, hold and cancel the jobs of others; "" = no such group')
    ] = ""
    admin_group: Annotated[str, a_group_or_none('its members may do what root may; "" = no such group')] = ""

    @property
    def shared(self) -> bool:
        """Whether anybody but root and the daemon's own user may use it."""
        return self.users != "owner" or bool(self.operator_group or self.admin_group)
