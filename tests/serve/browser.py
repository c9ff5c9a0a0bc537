"""A real browser without a window, for tests of the page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import BrowserContext, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def executable() -> str:
    """Return the browser named by SAFETY_RAY_BROWSER, or the first on PATH; raise RuntimeError if none is."""
    named = os.environ.get("SAFETY_RAY_BROWSER")
    for name in (named,) if named else NAMES:
        path = shutil.which(name)
        if path:
            return path
    reason = (
        f"SAFETY_RAY_BROWSER={named} is not a program" if named else f"none of {', '.join(NAMES)} is on PATH"
    )
    raise RuntimeError(
        f"these tests need a browser, and {reason}: run scripts/browser.sh (Debian or Ubuntu), "
        "or install Chromium and set SAFETY_RAY_BROWSER to it."
    )


@contextmanager
def launched() -> Iterator[BrowserContext]:
    """Open Playwright's synchronous browser with one window, whose pages are its tabs.

    A window for each page would take twice as long.

    While it is open, this thread has a running asyncio loop, so open it after everything else that the test
    starts, and close it after one module.
    """
    path = executable()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        try:
            yield browser.new_context()
        finally:
            browser.close()
