"""The tables of all pages, actions and endpoints.

Owns the order of the routes. What has no row here does not exist.
"""

from __future__ import annotations

from typing import Final

from stoker.cli.pages.actions import PageAction
from stoker.cli.pages.endpoints import Endpoint
from stoker.cli.pages.page import Page
from stoker.cli.pages.subjects import (
    checkpoint,
    checkpoint_list,
    doctor,
    health,
    job,
    job_list,
    job_log,
    overview,
    queue,
    recovery,
    resources,
    schedule,
    schedule_list,
    timeline,
    triggers,
    workflow,
    workflow_actions,
    workflow_list,
)

ALL_PAGES: Final[tuple[Page, ...]] = (
    *overview.PAGES,
    *job_list.PAGES,
    *job.PAGES,
    *job_log.PAGES,
    *workflow_list.PAGES,
    *workflow.PAGES,
    *checkpoint_list.PAGES,
    *checkpoint.PAGES,
    *schedule_list.PAGES,
    *schedule.PAGES,
    *triggers.PAGES,
    *timeline.PAGES,
    *resources.PAGES,
    *queue.PAGES,
    *recovery.PAGES,
    *health.PAGES,
    *doctor.PAGES,
)
ALL_ACTIONS: Final[tuple[PageAction, ...]] = (
    *job.ACTIONS,
    *workflow_actions.ACTIONS,
    *schedule.ACTIONS,
    *queue.ACTIONS,
)
ALL_ENDPOINTS: Final[tuple[Endpoint, ...]] = (
    *job_list.ENDPOINTS,
    *job_log.ENDPOINTS,
    *checkpoint.ENDPOINTS,
    *doctor.ENDPOINTS,
    *resources.ENDPOINTS,
)
