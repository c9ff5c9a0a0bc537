"""Use the playground of any endpoint in a browser, as a user does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, Page, Request, ViewportSize, expect

WAIT_MS = 120_000
expect.set_options(timeout=WAIT_MS)  # Playwright's own 5 s are too short for a busy machine


@dataclass
class Playground:
    """An open page; `errors` are from its console, `foreign_requests` go to other servers."""

    page: Page
    errors: list[str] = field(default_factory=list)
    foreign_requests: list[str] = field(default_factory=list)

    def generate(self, prompt: str, mode: str, **settings: float) -> None:
        """Fill in the form and press Generate; then use `wait_for_answers` or `wait`."""
        self.page.fill("#prompt", prompt)
        self.choose(mode)
        for name, value in settings.items():
            self.page.fill(f"[name={name}]", str(value))
        self.page.click("#generate")

    def choose(self, mode: str) -> None:
        """Select a mode of the safe answer, or `completion` or `chat`."""
        self.page.locator(f"input[type=radio][value={mode}]").check()

    def wait(self, pane: str, state: str) -> None:
        """Wait for a state of `pane` (plain or safe): idle, waiting, streaming, done, stopped or failed."""
        expect(self.page.locator(f"#{pane}")).to_have_attribute("data-state", state)

    def wait_for_answers(self) -> None:
        for pane in ("plain", "safe"):
            self.wait(pane, "done")

    def text(self, pane: str) -> str:
        return self.page.locator(f"#{pane} [data-part=text]").evaluate("it => it.textContent")

    def tokens(self, pane: str) -> list[dict[str, Any]]:
        """Return each token's text, p_tag (None: not measured) and alpha of its shade, 0 to 1."""
        return self.page.locator(f"#{pane} .token").evaluate_all(
            """all => all.map(it => ({
                text: it.textContent,
                p_tag: it.dataset.pTag === undefined ? null : Number(it.dataset.pTag),
                shade: (parts => parts.length > 3 ? Number(parts[3]) : parts.length ? 1 : 0)(
                    (getComputedStyle(it).backgroundColor.match(/[\\d.e-]+(?![a-z(])/g) ?? [])),
            }))"""
        )

    def error(self, pane: str) -> str | None:
        error = self.page.locator(f"#{pane} [data-part=error]")
        return error.inner_text() if error.is_visible() else None

    def report(self, pane: str) -> dict[str, str]:
        """Return mode, p_tag, p_tag_mean, prompt_p_tag, stopped and ended, as the page displays them."""
        fields = self.page.locator(f"#{pane} dd[data-field]")
        return dict(fields.evaluate_all("all => all.map(it => [it.dataset.field, it.textContent])"))

    def dropped(self) -> dict[int, list[list[str]]]:
        """Return the candidates of each step as rows of P(tag), log-probability and text, as displayed."""
        steps = self.page.locator("#dropped details").evaluate_all(
            """all => all.map(it => [it.dataset.step, [...it.querySelectorAll('tbody tr')].map(
                row => [...row.cells].map(cell => cell.textContent))])"""
        )
        return {int(step): rows for step, rows in steps}

    def kept(self, step: int) -> str:
        """Return the displayed P(tag) of the candidates kept in a step."""
        return self.page.locator(f"#dropped details[data-step='{step}'] .kept .chip").inner_text()


def open_playground(
    browser: BrowserContext, url: str, width: int = 1200, height: int = 900, dark: bool = False
) -> Playground:
    """Open the page at `url`, and wait until its form is enabled or it shows why it is not."""
    size: ViewportSize = {"width": width, "height": height}
    page = browser.new_page()
    page.set_viewport_size(size)
    page.emulate_media(color_scheme="dark" if dark else "light")
    page.set_default_timeout(WAIT_MS)
    opened, own = Playground(page), urlsplit(url).netloc

    def record(request: Request) -> None:
        if urlsplit(request.url).netloc != own:
            opened.foreign_requests.append(request.url)

    page.on("request", record)
    page.on("pageerror", lambda error: opened.errors.append(str(error)))
    page.on(
        "console", lambda message: opened.errors.append(message.text) if message.type == "error" else None
    )
    page.goto(url)
    expect(page.locator("#generate:enabled, #unavailable:visible")).to_have_count(1)
    return opened
