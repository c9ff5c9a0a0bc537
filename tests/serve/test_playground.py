"""The playground in a real browser: two streaming answers, their P(tag), and the dropped candidates."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

import pytest
from playground_page import Playground
from playwright.sync_api import expect
from scripted_endpoint import DONE, ScriptedEndpoint, chat_chunk, chunk, event

Open = Callable[..., Playground]
PROMPT = "They deserve to be hurt, and we will"
END = {"finish_reason": "length", "threshold": None, "p_tag": 0.21, "p_tag_mean": 0.034, "stopped": False}


def last(mode: str) -> bytes:
    return chunk([], [], mode=mode, prompt_p_tag=0.012, **END) + DONE


def test_playground_streams_both_answers(open_page: Open, endpoint: ScriptedEndpoint) -> None:
    left, right = threading.Event(), threading.Event()
    endpoint.scripts = {
        "off": [chunk([" fight", " them"], [0.2, 0.1]), left, chunk(["."], [0.001]), last("off")],
        "safebeam": [
            chunk([" listen"], [0.004]),
            right,
            chunk([" to", " them"], [0.003, 0.002]),
            last("safebeam"),
        ],
    }
    page = open_page()
    page.generate(PROMPT, "safebeam")
    for pane in ("plain", "safe"):
        page.wait(pane, "streaming")
    assert (page.text("plain"), page.text("safe")) == (" fight them", " listen")
    assert page.report("plain") == page.report("safe") == {}
    right.set()
    page.wait("safe", "done")
    assert (page.text("plain"), page.text("safe")) == (" fight them", " listen to them")
    expect(page.page.locator("#status")).to_have_text("Generating …")
    left.set()
    page.wait("plain", "done")
    expect(page.page.locator("#status")).to_have_text("Both answers are complete.")
    assert [token["text"] for token in page.tokens("plain")] == [" fight", " them", "."]
    assert page.report("safe") == {
        "mode": "safebeam",
        "p_tag": "0.21",
        "p_tag_mean": "0.034",
        "prompt_p_tag": "0.012",
        "stopped": "no",
        "ended": "max_tokens",
    }


def test_playground_decodes_arbitrarily_split_stream(open_page: Open, endpoint: ScriptedEndpoint) -> None:
    """The first half of each split event arrives with a complete event, so the test can wait for it."""
    first, second = chunk(["Straße"], [0.1]), chunk(["né 🙂"], [0.2])
    inside_character = second.index("🙂".encode()) + 2
    crlf = chunk(["."], [0.3]).replace(b"\n", b"\r\n")
    splits = [threading.Event() for _ in range(3)]
    endpoint.scripts = {
        "off": [
            first + second[:3],
            splits[0],
            second[3:] + b": a comment\n\n" + second[:inside_character],
            splits[1],
            second[inside_character:] + crlf + crlf[:-3],
            splits[2],
            crlf[-3:] + last("off"),
        ],
        "mask": [last("mask")],
    }
    page = open_page()
    page.generate("x", "mask")
    text = page.page.locator("#plain [data-part=text]")
    for split, shown in zip(splits, ("Straße", "Straßené 🙂", "Straßené 🙂né 🙂."), strict=True):
        expect(text).to_have_text(shown)
        split.set()
    page.wait("plain", "done")
    assert page.text("plain") == "Straßené 🙂né 🙂.."


def test_playground_shades_tokens_by_p_tag(open_page: Open, endpoint: ScriptedEndpoint) -> None:
    p_tags = [0.0, 0.0001, 0.0005, 0.001, 0.005, 0.02, 0.05, 0.3, 0.5, 0.99]
    endpoint.scripts = {
        "off": [chunk([f" t{i}" for i in range(10)], p_tags), chunk([" unknown"], [None]), last("off")],
        "mask": [last("mask")],
    }
    for dark in (False, True):
        page = open_page(dark=dark)
        page.generate("x", "mask")
        page.wait_for_answers()
        *tokens, unknown = page.tokens("plain")
        assert [token["p_tag"] for token in tokens] == p_tags
        for token in tokens:  # a logarithmic scale from 0.0005 to 0.5
            expected = min(max((math.log10(max(token["p_tag"], 1e-9)) - math.log10(0.0005)) / 3, 0), 1)
            assert token["shade"] == pytest.approx(expected, abs=0.01), token
        assert (unknown["p_tag"], unknown["shade"]) == (None, 0)
        tip = page.page.locator("#tip")
        for index, text in (
            (1, "P(tag) 0.0001"),
            (5, "P(tag) 0.02"),
            (9, "P(tag) 0.99"),
            (10, "P(tag) not measured"),
        ):
            page.page.locator("#plain .token").nth(index).hover()
            expect(tip).to_have_text(text)
            expect(tip).to_be_visible()


def test_playground_aligns_tokens_with_text(open_page: Open, endpoint: ScriptedEndpoint) -> None:
    stopped = {
        "finish_reason": "content_filter",
        "mode": "stop",
        "stopped": True,
        "threshold": 0.03,
        "p_tag": 0.04,
    }
    endpoint.scripts = {
        "off": [
            chunk(["�"], [0.3], text=""),  # the first part of a character
            chunk(["é", "world", "<|end|>"], [0.1, 0.02, 0.4], text="é world", p_tag_mean=None),
            event({"choices": [{"text": " and more", "finish_reason": "stop"}]}),
            event({"choices": [], "usage": {}}),
            DONE,
        ],
        "stop": [chunk([" we", "<tag>"], [0.01, 0.04], text=" we I cannot continue.", **stopped), DONE],
    }
    page = open_page()
    page.generate("x", "stop")
    page.wait_for_answers()
    plain = [(token["text"], token["p_tag"]) for token in page.tokens("plain")]
    assert plain == [("é", 0.3), (" world", 0.02), (" and more", 0.4)]
    safe = [(token["text"], token["p_tag"]) for token in page.tokens("safe")]
    assert safe == [(" we", 0.01), (" I cannot continue.", None)]
    report = page.report("safe")
    assert (report["stopped"], report["ended"], report["p_tag"]) == ("yes", "P(tag) reached 0.03", "0.04")
    assert report["p_tag_mean"] == report["prompt_p_tag"] == "not measured"
    assert page.report("plain")["ended"] == "end of text"


def test_playground_displays_chat_answers(open_page: Open, endpoint: ScriptedEndpoint) -> None:
    role = event({"choices": [{"delta": {"role": "assistant", "content": ""}, "logprobs": None}]})
    answer = [
        role,
        chat_chunk(["Hello", " there"], [0.01, 0.02]),
        chat_chunk([], [], mode="mask", **END),
        DONE,
    ]
    endpoint.scripts = {"off": answer, "mask": answer}
    page = open_page()
    page.choose("chat")
    page.generate("Hi", "mask")
    page.wait_for_answers()
    assert page.text("plain") == page.text("safe") == "Hello there"
    assert [token["p_tag"] for token in page.tokens("safe")] == [0.01, 0.02]


def test_playground_lists_dropped_candidates_per_step(open_page: Open, endpoint: ScriptedEndpoint) -> None:
    def candidate(step: int, text: str, p_tag: float, log_prob: float | None) -> dict[str, object]:
        return {"step": step, "text": text, "p_tag": p_tag, "log_prob": log_prob, "kept_p_tag": 0.02}

    first = [candidate(1, " hear", 0.11, -2.5), candidate(1, " fight", 0.41, -1.25)]
    second = [candidate(2, " listen hard", 0.07, None), candidate(2, " listen hear me", 0.03, -4)]
    endpoint.scripts = {
        "off": [last("off")],
        "safebeam": [
            chunk([], [], dropped=first),  # a search drops candidates before its answer has any text
            chunk([" listen"], [0.004], dropped=second),
            chunk([" hear"], [0.003]),
            last("safebeam"),
        ],
        "mask": [last("mask")],
    }
    page = open_page()
    page.generate(PROMPT, "safebeam")
    page.wait_for_answers()
    assert page.dropped() == {
        1: [["0.41", "−1.25", " fight"], ["0.11", "−2.50", " hear"]],
        2: [["0.07", "not measured", " listen hard"], ["0.03", "−4.00", " listen hear me"]],
    }
    assert page.kept(1) == "0.02"
    shown = page.page.locator("#dropped")
    expect(shown).to_contain_text("4 candidates dropped in 2 steps, with P(tag) up to 0.41.")
    step = shown.locator("details[data-step='2']")
    own = step.locator("td strong").evaluate_all("all => all.map(it => it.textContent)")
    assert own == [" hard", " me"], "text that differs from the answer is bold"
    expect(step.locator("table")).to_be_hidden()
    step.locator("summary").click()
    expect(step.locator("table")).to_be_visible()
    page.generate(PROMPT, "mask")
    page.wait_for_answers()
    expect(shown).to_be_hidden()


def test_playground_escapes_model_text(open_page: Open, endpoint: ScriptedEndpoint) -> None:
    evil = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>&amp;"
    dropped = [{"step": evil, "text": " other" + evil, "p_tag": 0.5, "log_prob": -1, "kept_p_tag": 0.1}]
    endpoint.settings = {**endpoint.settings, "model": evil}  # type: ignore[dict-item]
    endpoint.scripts = {
        "off": [chunk([evil], [0.1]), event({"error": {"message": evil}})],
        "safebeam": [chunk([evil], [0.1], dropped=dropped, finish_reason=evil, mode=evil), DONE],
    }
    page = open_page()
    page.generate(evil, "safebeam")
    page.wait("safe", "done")
    page.wait("plain", "failed")
    assert page.text("plain") == page.text("safe") == page.error("plain") == evil
    assert page.report("safe")["mode"] == page.report("safe")["ended"] == evil
    assert page.page.locator("#dropped td").last.evaluate("it => it.textContent") == " other" + evil
    assert page.page.locator("#model").inner_text() == f" · {evil}"
    assert page.page.locator("main img, main script").count() == 0
    assert page.page.title() == "Safe Beam Search, side by side"


@pytest.mark.parametrize("width", [380, 1200])
def test_playground_layout_fits_window_width(open_page: Open, endpoint: ScriptedEndpoint, width: int) -> None:
    long = "x" * 300
    dropped = [
        {"step": n, "text": long + str(n), "p_tag": 0.5, "log_prob": -123.45, "kept_p_tag": 0.1}
        for n in (1, 2)
    ]
    endpoint.settings = {**endpoint.settings, "model": long}  # type: ignore[dict-item]
    endpoint.scripts = {
        "off": [chunk([long], [0.1]), event({"error": {"message": long}})],
        "safebeam": [chunk([long], [0.1], dropped=dropped), last("safebeam")],
    }
    page = open_page(width=width)
    page.generate(long, "safebeam")
    page.wait("safe", "done")
    page.wait("plain", "failed")
    assert page.page.evaluate("document.documentElement.scrollWidth") == width
    # No element hides part of its content.
    clipped = (
        "all => all.filter(it => it.scrollWidth > it.clientWidth + 1).map(it => it.outerHTML.slice(0, 80))"
    )
    assert page.page.locator("main section, main form, main table, main p").evaluate_all(clipped) == []
