"""The tables of all pages, actions and endpoints.

Owns the order of the routes. What has no row here does not exist.
"""

from __future__ import annotations

from typing import Final

from stoker.cli.pages.actions import PageAction
from stoker.cli.pages.endpoints import Endpoint
from stoker.cli.pages.page import Page
from stoker.cli.pages.subjects import job, job_list, workflow, workflow_actions, workflow_list

ALL_PAGES: Final[tuple[Page, ...]] = (
    *job_list.PAGES,
    *job.PAGES,
    *workflow_list.PAGES,
    *workflow.PAGES,
)
ALL_ACTIONS: Final[tuple[PageAction, ...]] = (*job.ACTIONS, *workflow_actions.ACTIONS)
ALL_ENDPOINTS: Final[tuple[Endpoint, ...]] = ()
