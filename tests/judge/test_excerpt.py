"""The part of a long document that a judge reads."""

from __future__ import annotations

import pyarrow as pa
import pytest

from safety_ray.core.chunks import Chunk
from safety_ray.core.errors import UserError
from safety_ray.judge.excerpt import GAP, excerpt
from safety_ray.judge.rubric import LABEL, add_messages
from safety_ray.judge.settings import DocumentJudge

DIGITS = "0123456789" * 10
"""The character at position n is n modulo 10."""


def of_equal_length(characters: int, scores: list[int]) -> list[Chunk]:
    """Return chunks of equal length with `scores`."""
    return [{"end": (n + 1) * characters // len(scores), "score": score} for n, score in enumerate(scores)]


def test_excerpt_keeps_text_within_limit() -> None:
    assert excerpt(DIGITS, 100) == DIGITS
    assert excerpt(DIGITS, 100, of_equal_length(100, [0, 5])) == DIGITS
    assert excerpt("", 100) == ""


def test_excerpt_has_equal_windows_from_beginning_to_end() -> None:
    """Windows of 5 characters at 0, 95/3, 2 * 95/3 and 95."""
    assert excerpt(DIGITS, 20) == GAP.join(["01234", "12345", "34567", "56789"])


def test_excerpt_has_beginning_and_most_harmful_chunk() -> None:
    """The third of five chunks is at 40 to 60, and the window of 10 around its middle at 45 to 55."""
    assert excerpt(DIGITS, 20, of_equal_length(100, [1, 0, 4, 2, 4])) == f"0123456789{GAP}5678901234"
    assert (
        excerpt(DIGITS, 20, of_equal_length(100, [0, 0, 0, 0, 5])) == f"0123456789{GAP}5678901234"
    )  # 85 to 95
    assert (
        excerpt(DIGITS, 20, of_equal_length(100, [0] * 19 + [1])) == f"0123456789{GAP}0123456789"
    )  # the last 10
    short_last = [{"end": 96, "score": 0}, {"end": 100, "score": 5}]
    assert excerpt(DIGITS, 14, short_last) == f"0123456{GAP}3456789"  # 93 to 100
    assert (
        excerpt(DIGITS, 20, of_equal_length(100, [3, 0, 0, 0, 0])) == "01234567890123456789"
    )  # follows the beginning


@pytest.mark.parametrize("scores", [None, [0, 3, 1]])
def test_excerpt_has_at_most_max_chars_of_document(scores: list[int] | None) -> None:
    for length in range(201, 230):
        text = "a" * length
        for limit in range(8, 201):
            read = excerpt(text, limit, scores and of_equal_length(length, scores)).replace(GAP, "")
            assert limit - 3 <= len(read) <= limit


def test_add_messages_reads_chunks_on_request_only() -> None:
    text = f"begin{'.' * 600}middle{'.' * 1000}end"  # the second of four chunks has its middle at 604
    chunks = [of_equal_length(len(text), [0, 5, 0, 0]), of_equal_length(5, [1])]
    rows = pa.table({"id": ["a", "b"], "text": [text, "short"], "scored_chunks": chunks})
    for by_chunks, has_middle in ((True, True), (False, False)):
        asked = add_messages(rows, 0, False, max_chars=200, by_chunks=by_chunks)
        long, short = (messages[1]["content"] for messages in asked.column("messages").to_pylist())
        assert ("middle" in long, "begin" in long) == (has_middle, True)
        assert "\nshort\n" in short
        assert asked.column(LABEL.shortened).to_pylist() == [True, False]
        assert asked.column("text").to_pylist() == [text, "short"]


def test_document_judge_rejects_small_max_chars() -> None:
    with pytest.raises(UserError, match="max_chars=199 of the judge must be at least 200"):
        DocumentJudge(max_chars=199)
