"""The manual pages are current, and good mdoc(7)."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import manual_pages

# mandoc looks for the pages that ours refer to among those that are installed here.
OF_THIS_HOST = re.compile(r"referenced manual not found|outdated mandoc\.db")
NAME = re.compile(r"STOKER_[A-Z_]*[A-Z]")


def test_pages_when_a_table_changes_then_they_are_current() -> None:
    written = {page.name: page.read_text() for page in manual_pages.PAGES.iterdir()}

    assert written == manual_pages.pages(), "python -m tests.support.manual_pages writes them"


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="no mandoc here")
@pytest.mark.parametrize("name", ["stoker.1", "stokerd.8", "stoker.toml.5", "stoker-workflow.5"])
def test_page_when_mandoc_checks_it_then_there_is_no_complaint(name: str) -> None:
    done = subprocess.run(["mandoc", "-Tlint", manual_pages.PAGES / name], capture_output=True, text=True, check=False)

    assert [line for line in done.stdout.splitlines() if not OF_THIS_HOST.search(line)] == []


def test_environment_when_a_document_names_a_variable_of_a_job_then_the_manual_does() -> None:
    queues = manual_pages.OPERATIONS.with_name("queues.md").read_text()
    named = set(NAME.findall(queues.partition("`STOKER_JOB_ID`")[2].partition("\n\n")[0]))

    assert named
    assert named <= manual_pages.OF_A_JOB.keys() | manual_pages.ENVIRONMENT.keys()


def test_exit_codes_when_a_document_lists_them_then_the_manual_does() -> None:
    assert {"0", "1", "75", "78"} <= manual_pages.exit_codes().keys()
    assert Path(manual_pages.PAGES / "stokerd.8").read_text().count(".It Li") == len(manual_pages.exit_codes())
