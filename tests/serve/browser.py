"""A real browser without a window, for what only a browser can tell of a page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

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
    """The browser named by SAFETY_RAY_BROWSER, or the first on PATH; RuntimeError where there is none."""
    named = os.environ.get("SAFETY_RAY_BROWSER")
    for name in (named,) if named else NAMES:
        found = shutil.which(name)
        if found:
            return found
    looked = (
        f"SAFETY_RAY_BROWSER={named} is no program" if named else f"none of {', '.join(NAMES)} is on PATH"
    )
    raise RuntimeError(
        f"these tests need a browser, and {looked}: run scripts/browser.sh (Debian or Ubuntu), "
        "or install Chromium and name it by SAFETY_RAY_BROWSER."
    )


@contextmanager
def launched() -> Iterator[Browser]:
    """Playwright's synchronous browser. While it is open this thread has a running asyncio loop.

    So open it after whatever else the test starts, and no longer than for one module.
    """
    path = executable()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()
