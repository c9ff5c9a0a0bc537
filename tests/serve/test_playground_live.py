"""The playground page of a real endpoint, in a real browser."""

from __future__ import annotations

from browser import launched
from known_model import KEY, LETTERS
from openai import OpenAI
from playground_page import open_playground
from playwright.sync_api import expect

MODEL = "safety-ray"


def test_playground_live_matches_endpoint_answers(client: OpenAI) -> None:
    beam = {"safety": {"mode": "safebeam", "explain": True}}
    expected = client.completions.create(
        model=MODEL, prompt="abc", max_tokens=24, logprobs=1, extra_body=beam
    ).choices[0]
    with launched() as browser:
        page = open_playground(browser, str(client.base_url).removesuffix("v1/"))
        expect(page.page.locator("#key")).to_be_visible()
        page.page.fill("#key", KEY)
        page.choose("completion")
        page.generate("abc", "safebeam", max_tokens=24)
        page.wait_for_answers()
        assert page.text("safe").startswith(expected.text)
        p_tags = [token["p_tag"] for token in page.tokens("safe")]
        assert p_tags == expected.safety["p_tags"][: len(p_tags)]
        assert "f" not in expected.text
        assert page.text("plain").startswith(LETTERS[3:6])
        shades = {token["text"]: token["shade"] for token in page.tokens("plain")}
        assert shades["g"] > shades["e"]  # at the position of g, after f, the tag has 0.2
        dropped = [row for rows in page.dropped().values() for row in rows]
        assert len(dropped) == len(expected.safety["dropped"])
        assert any(row[2].endswith("f") for row in dropped)
        assert page.report("safe")["mode"] == "safebeam"

        page.generate("u", "stop", threshold=0.3)
        page.wait_for_answers()
        assert page.text("safe").startswith("vw")
        assert "yes" in page.report("safe")["stopped"].lower()

        page.page.fill("#key", "not-a-key-of-anyone")
        page.page.click("#generate")
        page.wait("safe", "failed")
        assert "no valid API key" in (page.error("safe") or "")
        assert page.foreign_requests == []
        assert all("401" in error for error in page.errors)
