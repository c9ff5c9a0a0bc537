"""Page, figure and dataset card: escaped, complete, and with the card's numbers."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from huggingface_hub import DatasetCard
from matplotlib.image import imread

from safety_ray.report.figure import plot_card
from safety_ray.report.formatting import (
    format_change,
    format_count,
    format_number,
    format_percent,
)
from safety_ray.report.page import render_page
from safety_ray.report.readme import render_readme

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Reader(HTMLParser):
    """Collect visible text and all attributes, and check that tags nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words += data.split()

    @property
    def text(self) -> str:
        return " ".join(self.words)


@pytest.fixture(params=["card", "card_before"])
def any_card(request: pytest.FixtureRequest) -> dict[str, Any]:
    return dict(request.getfixturevalue(request.param))


def test_report_page_is_self_contained_and_escapes_values(any_card: dict[str, Any]) -> None:
    page = render_page(any_card)
    reader = Reader(page)
    assert {"script", "link", "img", "iframe", "object", "base", "form"}.isdisjoint(reader.tags)
    assert not re.search(r"https?:|//\w|url\(|@import|javascript:", page)
    assert {name for name, _ in reader.attributes}.isdisjoint({"src", "href", "srcset", "action"})
    assert "<b>card</b>" not in page
    assert page.count("&lt;b&gt;card&lt;/b&gt; &amp; $x_1$") == 2
    assert "prefers-color-scheme: dark" in page
    assert ("viewport", "width=device-width, initial-scale=1") in [
        (a[1], b[1])
        for a, b in zip(reader.attributes, reader.attributes[1:], strict=False)
        if a[1] == "viewport"
    ]


def test_report_page_contains_all_numbers_and_methods(any_card: dict[str, Any]) -> None:
    text = Reader(render_page(any_card)).text
    for sentence in [
        *any_card["method"]["limits"],
        any_card["method"]["matching"],
        any_card["method"]["words"],
    ]:
        assert " ".join(sentence.split()) in text
    for mix in {"before", "after"} & any_card["slices"].keys():
        for category, rate in any_card["slices"][mix]["categories"].items():
            assert category in text
            value, low, high = (format_number(rate[key]) for key in ("per_million", "low", "high"))
            assert f"{value} {low}–{high}" in text
        for row in any_card["ngrams"][mix]:
            assert row["ngram"] in text


def test_report_page_chart_coordinates_stay_in_bounds(any_card: dict[str, Any]) -> None:
    reader = Reader(render_page(any_card))
    names = ("x", "x1", "x2", "y", "width", "height")
    texts = [value for name, value in reader.attributes if name in names and value]
    values = [float(text.removesuffix("%")) for text in texts if text.endswith("%")]
    assert len(values) > 100
    assert all(0 <= value <= 100 for value in values)


def test_report_figure_contains_before_and_after_colors(
    card: dict[str, Any], card_before: dict[str, Any]
) -> None:
    def colors(plotted: dict[str, Any]) -> set[int]:
        pixels = imread(io.BytesIO(plot_card(plotted)))
        assert pixels.shape[0] > 600
        assert pixels.shape[1] > 1200
        red, green, blue = np.moveaxis((pixels[..., :3] * 255).round().astype(int), -1, 0)
        return set(np.unique(red << 16 | green << 8 | blue).tolist())

    before, after = 0xD55E00, 0x0072B2
    assert {before, after} <= colors(card)
    only_before = colors(card_before)
    assert before in only_before
    assert after not in only_before


def test_report_readme_is_valid_dataset_card(any_card: dict[str, Any]) -> None:
    text = render_readme(any_card, "en", "odc-by")
    parsed = DatasetCard(text)
    assert parsed.data.pretty_name == any_card["title"]
    assert parsed.data.license == "odc-by"
    assert parsed.data.language == ["en"]
    assert parsed.data.size_categories == ["n<1K"]
    assert "arxiv:2504.16980" in parsed.data.tags
    assert r"\<b\>card\</b\> \& \$x\_1\$ \| " in parsed.text
    assert "![Scores and harmful n-grams](card.png)" in parsed.text
    rows = [line for line in parsed.text.splitlines() if line.startswith("| Hate |")]
    assert [format_number(any_card["slices"]["before"]["categories"]["Hate"]["per_million"])] == [
        rows[0].split("|")[2].split()[0]
    ]


def test_report_formatting_of_numbers() -> None:
    assert [format_number(v) for v in (None, 0, 0.004, 3.456, 9.996, 99.94, 99.96, 1234.5)] == [
        *("–", "0", "<0.01", "3.46", "10.0", "99.9", "100", "1,234"),
    ]
    assert [format_percent(v) for v in (None, 0, 0.0004, 0.013, 0.5, 0.9996, 1)] == [
        *("–", "0%", "<0.1%", "1.3%", "50%", ">99.9%", "100%"),
    ]
    assert [format_change(v) for v in (None, 0, -0.5, 0.034, 12)] == ["–", "±0%", "−50%", "+3.4%", "+1,200%"]
    assert [format_count(v) for v in (999, 99_999, 123_456, 1_234_567, 999_950_000)] == [
        *("999", "99,999", "123k", "1.23M", "1B"),
    ]
