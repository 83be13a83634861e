"""The role that the numbers of a process give it."""

from __future__ import annotations

import pytest

from stoker.core.access import AccessRules, Role, Viewer

OWN, STRANGER, NOBODY = 900, 1_001, 65_534
MEMBERS, OPERATORS, ADMINS = 100, 200, 300
OWNER_ONLY = AccessRules(own_uid=OWN)
GROUPS = AccessRules(own_uid=OWN, group=MEMBERS, operators=OPERATORS, admins=ADMINS)
EVERYONE = AccessRules(own_uid=OWN, everyone=True, operators=OPERATORS)


@pytest.mark.parametrize(
    ("access", "uid", "gids", "role"),
    [
        (OWNER_ONLY, 0, [0], Role.ADMIN),
        (OWNER_ONLY, OWN, [OWN], Role.ADMIN),
        (OWNER_ONLY, STRANGER, [0, OWN, MEMBERS], None),
        (GROUPS, STRANGER, [STRANGER], None),
        (GROUPS, STRANGER, [STRANGER, MEMBERS], Role.SUBMITTER),
        (GROUPS, STRANGER, [MEMBERS, OPERATORS], Role.OPERATOR),
        (GROUPS, STRANGER, [OPERATORS], Role.OPERATOR),
        (GROUPS, STRANGER, [MEMBERS, OPERATORS, ADMINS], Role.ADMIN),
        (EVERYONE, STRANGER, [STRANGER], Role.SUBMITTER),
        (EVERYONE, STRANGER, [OPERATORS], Role.OPERATOR),
        (EVERYONE, NOBODY, [OPERATORS], None),
        (AccessRules(own_uid=NOBODY, everyone=True), NOBODY, [NOBODY], Role.ADMIN),
        (AccessRules(own_uid=OWN, group=NOBODY, admins=NOBODY), STRANGER, [NOBODY], None),
    ],
)
def test_role_when_a_process_has_these_numbers_then_it_is_that(
    access: AccessRules, uid: int, gids: list[int], role: Role | None
) -> None:
    assert access.role_of(uid, gids) is role


@pytest.mark.parametrize(("access", "shared"), [(OWNER_ONLY, False), (GROUPS, True), (EVERYONE, True)])
def test_access_when_others_may_use_the_daemon_then_it_is_shared(access: AccessRules, *, shared: bool) -> None:
    assert access.shared is shared


def test_roles_when_named_then_the_word_is_lower_case() -> None:
    assert [role.word for role in Role] == ["submitter", "operator", "admin"]


@pytest.mark.parametrize(
    ("role", "sees", "owns"), [(Role.SUBMITTER, 5, 5), (Role.OPERATOR, None, 5), (Role.ADMIN, None, None)]
)
def test_viewer_when_it_has_a_role_then_it_sees_and_owns_that_much(
    role: Role, sees: int | None, owns: int | None
) -> None:
    viewer = Viewer(5, role)

    assert (viewer.sees, viewer.owns) == (sees, owns)
    assert viewer.looks_into(5)
    assert viewer.looks_into(6) is (role is Role.ADMIN)
