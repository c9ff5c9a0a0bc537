"""The playground's form in a real browser: its requests, stopping, and error messages."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import browser as browsers
import pytest
from playground_page import Playground, open_playground
from playwright.sync_api import BrowserContext, expect
from scripted_endpoint import DONE, SETTINGS, ScriptedEndpoint, chunk, event, scripted_endpoint

Open = Callable[..., Playground]
SHORT = [chunk([" yes"], [0.01]), chunk([], [], finish_reason="stop"), DONE]
ERROR = b'{"error": {"message": "max_tokens=900 is more than 256.", "type": "BadRequestError", "code": 400}}'


@pytest.fixture(autouse=True)
def short_answers(endpoint: ScriptedEndpoint) -> None:
    endpoint.scripts = {mode: list(SHORT) for mode in SETTINGS["modes"]}  # type: ignore[attr-defined]


SEARCH = {"beam_size": 2, "num_candidates": 3, "drop_share": 0.25, "stride": 4}
SAMPLE = {name: value for name, value in SEARCH.items() if name != "beam_size"}


@pytest.mark.parametrize(
    ("mode", "settings", "safety"),
    [
        ("mask", {}, {}),
        ("stop", {"threshold": 0.05}, {"threshold": 0.05}),
        ("safebeam", SEARCH, SEARCH),
        ("sample", SAMPLE, SAMPLE),
    ],
)
def test_playground_form_sends_settings_of_selected_mode(
    open_page: Open,
    endpoint: ScriptedEndpoint,
    mode: str,
    settings: dict[str, float],
    safety: dict[str, float],
) -> None:
    page = open_page()
    page.generate(" say  so\n", mode, max_tokens=7, temperature=0.3, **settings)
    page.wait_for_answers()
    plain, safe = endpoint.bodies()["off"], endpoint.bodies()[mode]
    common = {
        "path": "v1/completions",
        "key": None,
        "model": "safety-ray",
        "prompt": " say  so\n",
        "max_tokens": 7,
        "stream": True,
        "logprobs": 1,
    }
    assert plain == {**common, "temperature": 0.3, "safety": {"mode": "off", "explain": True}}
    sampled = {} if mode == "safebeam" else {"temperature": 0.3}
    assert safe == {**common, **sampled, "safety": {"mode": mode, "explain": True, **safety}}


def test_playground_form_sends_chat_messages(open_page: Open, endpoint: ScriptedEndpoint) -> None:
    page = open_page()
    page.choose("chat")
    page.generate("Hi", "mask")
    page.wait_for_answers()
    body = endpoint.bodies()["mask"]
    assert body["path"] == "v1/chat/completions"
    assert body["messages"] == [{"role": "user", "content": "Hi"}]
    assert (body["logprobs"], body["top_logprobs"]) == (True, 0)
    assert "prompt" not in body


def test_playground_form_follows_server_settings(open_page: Open, endpoint: ScriptedEndpoint) -> None:
    limits: dict[str, Any] = {
        "modes": ["off", "mask", "stop"],
        "mode": "stop",
        "allow_off": False,
        "chat": False,
    }
    endpoint.settings = {**SETTINGS, **limits, "threshold": 0.0155, "max_tokens": 32}
    page = open_page()
    modes = page.page.locator("#modes input").evaluate_all("all => all.map(it => [it.value, it.checked])")
    assert modes == [["mask", False], ["stop", True]]
    expect(page.page.locator("#api")).to_be_hidden()
    expect(page.page.locator("#key")).to_be_hidden()
    expect(page.page.locator("[name=threshold]")).to_have_value("0.0155")
    expect(page.page.locator("[name=beam_size]")).to_be_hidden()
    page.generate("x", "stop")
    page.wait_for_answers()
    assert sorted(endpoint.bodies()) == ["mask", "stop"]
    assert page.report("plain")["mode"] == "mask"


def test_playground_form_validates_before_sending(open_page: Open, endpoint: ScriptedEndpoint) -> None:
    page = open_page()
    field = page.page.locator("[name=num_candidates]")
    expect(page.page.locator("#rows")).to_have_text("per beam; 16 rows of 32")
    page.generate("x", "safebeam", beam_size=5, num_candidates=8)
    assert field.evaluate("it => it.validationMessage") == (
        "beam_size × num_candidates is 40, which exceeds this server’s limit of 32."
    )
    page.generate("", "mask")  # these settings are hidden in mode mask; the prompt is missing
    page.generate("x", "mask", max_tokens=257)
    assert endpoint.received == []
    page.generate("x", "mask", max_tokens=256)
    page.wait_for_answers()


def test_playground_form_sends_key_without_storing(open_page: Open, endpoint: ScriptedEndpoint) -> None:
    endpoint.settings = {**SETTINGS, "needs_key": True}
    page = open_page()
    page.generate("x", "mask")
    assert endpoint.received == [], "sent without a key"
    page.page.fill("#key", "a-secret")
    page.generate("x", "mask")
    page.wait_for_answers()
    assert {body["key"] for body in endpoint.received} == {"Bearer a-secret"}
    kept = "JSON.stringify([localStorage, sessionStorage, document.cookie, location.href])"
    assert "a-secret" not in page.page.evaluate(kept)
    page.page.reload()
    expect(page.page.locator("#key")).to_have_value("")


def test_playground_form_stop_cancels_both_requests(open_page: Open, endpoint: ScriptedEndpoint) -> None:
    never = threading.Event()
    endpoint.scripts["off"] = endpoint.scripts["stop"] = [chunk([" on", " and"], [0.1, 0.2]), never]
    page = open_page()
    page.generate("x", "stop")
    for pane in ("plain", "safe"):
        page.wait(pane, "streaming")
    page.page.click("#stop")
    for pane in ("plain", "safe"):
        page.wait(pane, "stopped")
    assert endpoint.disconnected.wait(120), "the server still sends"
    assert (page.text("plain"), page.error("plain")) == (" on and", None)
    expect(page.page.locator("#plain [data-part=count]")).to_have_text("stopped after 2 tokens")
    expect(page.page.locator("#status")).to_have_text("Stopped.")
    endpoint.scripts["off"] = list(SHORT)
    page.generate("x", "mask")
    page.wait_for_answers()
    assert page.text("plain") == " yes"


def test_playground_form_shows_one_sentence_errors(open_page: Open, endpoint: ScriptedEndpoint) -> None:
    page = open_page()
    started = chunk([" so", " far"], [0.1, 0.1])
    for script, message, shown in (
        ((400, ERROR), "max_tokens=900 is more than 256.", ""),
        ((502, b"<html>bad gateway</html>"), "The server answered with status 502 (Bad Gateway).", ""),
        ([started, event({"error": {"message": "The engine died."}})], "The engine died.", " so far"),
        ([started], "The connection ended before the answer was complete.", " so far"),
        ([started, event("{")], "The server sent an event that cannot be read.", " so far"),
    ):
        endpoint.scripts["stop"] = script
        page.generate("x", "stop")
        page.wait("safe", "failed")
        page.wait("plain", "done")
        assert (page.error("safe"), page.text("safe"), page.error("plain")) == (message, shown, None)
        expect(page.page.locator("#status")).to_have_text("One answer failed.")
    page.generate("x", "mask")
    page.wait_for_answers()
    assert page.error("safe") is None


def test_playground_form_is_disabled_when_server_unavailable(
    open_page: Open, endpoint: ScriptedEndpoint
) -> None:
    endpoint.settings = (503, b'{"error": {"message": "The model is still loading."}}')
    page = open_page()
    expect(page.page.locator("#unavailable")).to_have_text("The model is still loading.")
    expect(page.page.locator("#generate")).to_be_disabled()
    page.page.fill("#prompt", "x")
    page.page.keyboard.press("Control+Enter")
    assert endpoint.received == []


def test_playground_form_reports_unreachable_server(browser: BrowserContext) -> None:
    with scripted_endpoint("/") as endpoint:
        page = open_playground(browser, endpoint.url)
    page.generate("x", "mask")
    page.wait("plain", "failed")
    assert page.error("safe") == "The server cannot be reached."
    expect(page.page.locator("#status")).to_have_text("Both answers failed.")
    page.page.close()


def test_playground_form_supports_keyboard_only_use(open_page: Open, endpoint: ScriptedEndpoint) -> None:
    never = threading.Event()
    endpoint.scripts["off"] = [chunk([" a", " b", " c"], [0.01, 0.2, None]), never]
    page = open_page()
    keyboard, focused = page.page.keyboard, page.page.locator(":focus")
    for _ in range(20):
        keyboard.press("Tab")
        if focused.get_attribute("id") == "prompt":
            break
    keyboard.type("A prompt")
    for _ in range(20):
        keyboard.press("Tab")
        if focused.get_attribute("value") == "safebeam":
            break
    keyboard.press("ArrowLeft")
    expect(page.page.locator("[value=stop]")).to_be_checked()
    keyboard.press("Tab")
    expect(focused).to_have_attribute("name", "max_tokens")
    keyboard.press("Enter")
    page.wait("plain", "streaming")
    page.wait("safe", "done")
    for _ in range(20):
        keyboard.press("Tab")
        if "token" in (focused.get_attribute("class") or ""):
            break
    tip = page.page.locator("#tip")
    expect(tip).to_have_text("P(tag) 0.01")
    keyboard.press("ArrowRight")
    expect(focused).to_have_text(" b")
    expect(tip).to_have_text("P(tag) 0.20")
    keyboard.press("End")
    expect(tip).to_have_text("P(tag) not measured")
    keyboard.press("Tab")  # an answer is one tab stop, so the next is the other answer
    assert focused.evaluate("it => it.closest('section').id") == "safe"
    expect(tip).to_have_text("P(tag) 0.01")
    keyboard.press("Shift+Tab")
    expect(focused).to_have_text(" c")  # the token that had the focus before
    keyboard.press("Escape")
    page.wait("plain", "stopped")
    expect(tip).to_be_hidden()
    page.page.focus("#prompt")
    endpoint.scripts["off"] = list(SHORT)
    keyboard.press("Control+Enter")
    page.wait_for_answers()
    assert [body["prompt"] for body in endpoint.received] == ["A prompt"] * 4


def test_browser_executable_raises_clear_error_when_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAFETY_RAY_BROWSER", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RuntimeError, match=r"none of chromium, .* is on PATH: run scripts/browser\.sh"):
        browsers.executable()
    monkeypatch.setenv("SAFETY_RAY_BROWSER", "/no/browser")
    with pytest.raises(RuntimeError, match="SAFETY_RAY_BROWSER=/no/browser is not a program"):
        browsers.executable()
