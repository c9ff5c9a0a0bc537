"""Drives the playground in a browser as a person would, whatever endpoint serves it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, Request, ViewportSize, expect

WAIT_MS = 120_000
expect.set_options(timeout=WAIT_MS)  # Playwright's own 5 s are too short for a busy machine


@dataclass
class Playground:
    """An open page; `errors` are what its console said, `strangers` requests beyond its own server."""

    page: Page
    errors: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)

    def ask(self, prompt: str, mode: str, **settings: float) -> None:
        """Fill in the form and press Ask; `answered` or `wait` for what comes."""
        self.page.fill("#prompt", prompt)
        self.choose(mode)
        for name, value in settings.items():
            self.page.fill(f"[name={name}]", str(value))
        self.page.click("#ask")

    def choose(self, mode: str) -> None:
        """A mode of the safe answer, or `completion` or `chat`."""
        self.page.locator(f"input[type=radio][value={mode}]").check()

    def wait(self, pane: str, state: str) -> None:
        """`pane`: plain or safe; `state`: idle, waiting, streaming, done, stopped or failed."""
        expect(self.page.locator(f"#{pane}")).to_have_attribute("data-state", state)

    def answered(self) -> None:
        for pane in ("plain", "safe"):
            self.wait(pane, "done")

    def text(self, pane: str) -> str:
        return self.page.locator(f"#{pane} [data-part=text]").evaluate("it => it.textContent")

    def tokens(self, pane: str) -> list[dict[str, Any]]:
        """Of each token its text, p_tag (None: not measured) and the alpha of its shade, 0 to 1."""
        return self.page.locator(f"#{pane} .token").evaluate_all(
            """all => all.map(it => ({
                text: it.textContent,
                p_tag: it.dataset.pTag === undefined ? null : Number(it.dataset.pTag),
                shade: (parts => parts.length > 3 ? Number(parts[3]) : parts.length ? 1 : 0)(
                    (getComputedStyle(it).backgroundColor.match(/[\\d.e-]+(?![a-z(])/g) ?? [])),
            }))"""
        )

    def error(self, pane: str) -> str | None:
        found = self.page.locator(f"#{pane} [data-part=error]")
        return found.inner_text() if found.is_visible() else None

    def report(self, pane: str) -> dict[str, str]:
        """mode, p_tag, p_tag_mean, prompt_p_tag, stopped and ended, as the page words them."""
        found = self.page.locator(f"#{pane} dd[data-field]")
        return dict(found.evaluate_all("all => all.map(it => [it.dataset.field, it.textContent])"))

    def dropped(self) -> dict[int, list[list[str]]]:
        """By step: candidates as rows of P(tag), log-probability and text, as the page words them."""
        steps = self.page.locator("#dropped details").evaluate_all(
            """all => all.map(it => [it.dataset.step, [...it.querySelectorAll('tbody tr')].map(
                row => [...row.cells].map(cell => cell.textContent))])"""
        )
        return {int(step): rows for step, rows in steps}

    def kept(self, step: int) -> str:
        """P(tag) of what was kept at that step, as the page words it."""
        return self.page.locator(f"#dropped details[data-step='{step}'] .kept .chip").inner_text()


def open_playground(
    browser: Browser, url: str, width: int = 1200, height: int = 900, dark: bool = False
) -> Playground:
    """The page at `url`, once it knows what may be asked there or has said why not."""
    size: ViewportSize = {"width": width, "height": height}
    page = browser.new_page(viewport=size, color_scheme="dark" if dark else "light")
    page.set_default_timeout(WAIT_MS)
    opened, own = Playground(page), urlsplit(url).netloc

    def seen(request: Request) -> None:
        if urlsplit(request.url).netloc != own:
            opened.strangers.append(request.url)

    page.on("request", seen)
    page.on("pageerror", lambda error: opened.errors.append(str(error)))
    page.on("console", lambda said: opened.errors.append(said.text) if said.type == "error" else None)
    page.goto(url)
    expect(page.locator("#ask:enabled, #trouble:visible")).to_have_count(1)
    return opened
