"""Debian's chromium, driven through the web page as a person would.

Owns the browser process and its options. `Window` keeps all that a page reports: errors of scripts, refused resources,
breaches of the content security policy.
"""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING, Any, Literal

from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser as Chromium
    from playwright.sync_api import Page

    from tests.support.web_page import WebPageProcess

PROGRAM = shutil.which("chromium")
OPTIONS = [
    "--no-sandbox",  # tests run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
PATIENCE_MS = 60_000


@contextlib.contextmanager
def chromium() -> Iterator[Chromium]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=OPTIONS, timeout=PATIENCE_MS)
        yield browser
        browser.close()


class Window:
    """One window that has opened the printed address. `complaints` is what went wrong in it."""

    def __init__(self, page: Page, web: WebPageProcess) -> None:
        self.page = page
        self.complaints: list[str] = []
        self._base = web.base
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda message: self._note(message.type, message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _note(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)

    def open(self, path: str) -> None:
        self.page.goto(self._base + path, wait_until="load")

    @property
    def text(self) -> str:
        return self.page.inner_text("body")

    def wait_for(self, text: str) -> None:
        """Until the page shows it."""
        self.page.wait_for_function("text => document.body.innerText.includes(text)", arg=text)

    def barriers(self) -> list[str]:
        """The barriers that axe finds: the rule and the elements."""
        found: list[dict[str, Any]] = Axe().run(self.page).response["violations"]
        return [f"{one['id']}: {[node['html'][:200] for node in one['nodes']][:3]}" for one in found]

    def wider_than_itself(self) -> list[str]:
        """The elements that make the page scroll sideways."""
        script = """() => document.documentElement.scrollWidth <= innerWidth ? [] :
            [...document.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > innerWidth + 1 &&
                !e.closest(".scroll")).slice(0, 5).map(e => e.outerHTML.slice(0, 200))"""
        wide: list[str] = self.page.evaluate(script)
        return wide


@contextlib.contextmanager
def window(
    browser: Chromium,
    web: WebPageProcess,
    *,
    scheme: Literal["light", "dark"] = "light",
    width: int = 1280,
    height: int = 800,
    scripts: bool = True,
) -> Iterator[Window]:
    """A window of its own, without anything that another one keeps."""
    with contextlib.closing(
        browser.new_context(
            color_scheme=scheme,
            viewport={"width": width, "height": height},
            java_script_enabled=scripts,
            locale="en-GB",
        )
    ) as context:
        page = context.new_page()
        page.goto(web.address)
        yield Window(page, web)
