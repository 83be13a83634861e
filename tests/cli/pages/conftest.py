"""The web page of the shared daemon: one server for a module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.web_page import Browser, WebPageProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

    import stoker
    from tests.support.daemon import DaemonProcess


@pytest.fixture(scope="module")
def web(shared: DaemonProcess) -> Iterator[WebPageProcess]:
    with WebPageProcess(shared) as web:
        yield web


@pytest.fixture
def client(shared: DaemonProcess) -> Iterator[stoker.Client]:
    with shared.client() as client:
        yield client


@pytest.fixture
def browser(web: WebPageProcess) -> Iterator[Browser]:
    with web.browser() as browser:
        yield browser
