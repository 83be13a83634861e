"""Crontabs as people have them: their lines, variables and percent signs."""

from __future__ import annotations

import pytest

from stoker.core.schedule.crontab import read_crontab, split_percent

DEBIAN = """\
# /etc/crontab: system-wide crontab
SHELL=/bin/sh
# You can also override PATH, but by default, newer versions inherit it from the environment
#PATH=/usr/local/sbin:/usr/local/bin:/sbin:/bin:/usr/sbin:/usr/bin

# m h dom mon dow user\tcommand
17 *\t* * *\troot\tcd / && run-parts --report /etc/cron.hourly
25 6\t* * *\troot\ttest -x /usr/sbin/anacron || { cd / && run-parts --report /etc/cron.daily; }
47 6\t* * 7\troot\ttest -x /usr/sbin/anacron || { cd / && run-parts --report /etc/cron.weekly; }
52 6\t1 * *\troot\ttest -x /usr/sbin/anacron || { cd / && run-parts --report /etc/cron.monthly; }
#
"""
OWN = """\
MAILTO = ops@example.org
PATH = "/opt/bin:/usr/bin:/bin"
  'GREETING'='hello there'
CRON_TZ=Europe/Berlin
30 2 * * mon-fri /usr/local/bin/backup --full
SHELL=/bin/bash
PATH=/bin
@daily echo done
@reboot /usr/bin/begin
*/5 * * * * date +\\%H\\%M; cat%first%second
X = 1
"""


def test_crontab_when_it_is_debians_then_each_line_has_its_user() -> None:
    crontab = read_crontab(DEBIAN, users=True)

    assert [(job.line, job.timing, job.user) for job in crontab.jobs] == [
        (7, "17 * * * *", "root"),
        (8, "25 6 * * *", "root"),
        (9, "47 6 * * 7", "root"),
        (10, "52 6 1 * *", "root"),
    ]
    assert crontab.jobs[0].command == "cd / && run-parts --report /etc/cron.hourly"
    assert crontab.jobs[0].environment == {"PATH": "/usr/bin:/bin"}
    assert (crontab.mistakes, crontab.remarks) == ([], [])


def test_crontab_when_it_is_a_users_then_variables_hold_for_the_lines_below() -> None:
    first, second, third = read_crontab(OWN, users=False).jobs

    assert (first.timing, first.command, first.zone, first.shell) == (
        "30 2 * * mon-fri",
        "/usr/local/bin/backup --full",
        "Europe/Berlin",
        "/bin/sh",
    )
    assert first.environment == {"PATH": "/opt/bin:/usr/bin:/bin", "GREETING": "hello there"}
    assert (second.timing, second.shell, second.environment["PATH"]) == ("@daily", "/bin/bash", "/bin")
    assert (third.command, third.stdin) == ("date +%H%M; cat", "first\nsecond\n")


def test_crontab_when_a_value_has_very_many_spaces_then_it_is_read_all_the_same() -> None:
    value = f"a{' ' * 900_000}b"

    crontab = read_crontab(f"X = {value} \n@daily true\n", users=False)

    (job,) = crontab.jobs
    assert job.environment["X"] == value


def test_crontab_when_a_line_has_no_counterpart_then_a_remark_explains() -> None:
    remarks = read_crontab(OWN, users=False).remarks

    assert [(line, text.split()[0]) for line, text in remarks] == [(1, "MAILTO"), (9, "@reboot")]


@pytest.mark.parametrize(
    ("line", "users", "words"),
    [
        ("30 2 * * *", False, "not a line of a crontab"),
        ("30 2 * * * root", True, "not a line of a crontab with users"),
        ("@daily", False, "not a line of a crontab"),
        ("99 2 * * * true", False, "bad minute"),
        ("@sometimes true", False, "no such name"),
        ("nonsense", False, "not a line of a crontab"),
    ],
)
def test_crontab_when_a_line_is_wrong_then_it_is_a_mistake(line: str, *, users: bool, words: str) -> None:
    crontab = read_crontab(f"# a remark\n{line}\n", users=users)

    ((number, message),) = crontab.mistakes
    assert (number, crontab.jobs) == (2, [])
    assert words in message


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("true", ("true", None)),
        ("cat%", ("cat", "\n")),
        ("cat %a", ("cat", "a\n")),
        (r"date +\%F", ("date +%F", None)),
        (r"cat%100\% sure%", ("cat", "100% sure\n\n")),
    ],
)
def test_percent_when_it_stands_in_a_command_then_stdin_begins(command: str, expected: tuple[str, str | None]) -> None:
    assert split_percent(command) == expected
