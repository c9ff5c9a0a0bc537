"""Long texts are split at paragraphs: nothing is lost, no chunk is too long."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from safety_ray.rewrite.chunking import join_source, join_texts, most_harmful_span, split_text


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet='ab.!"” \n\t。', max_size=300), st.integers(1, 80))
def test_split_text_covers_text_without_overlap(text: str, max_chars: int) -> None:
    spans = split_text(text, max_chars)
    assert all(0 <= end - start <= max_chars for start, end in spans)
    assert all(left.end <= right.start for left, right in itertools.pairwise(spans))
    between = [text[left.end : right.start] for left, right in itertools.pairwise(spans)]
    outside = [text[: spans[0].start], text[spans[-1].end :]]
    assert not "".join(between + outside).strip()


def test_split_text_prefers_paragraphs_lines_sentences_words() -> None:
    def chunks(text: str, max_chars: int) -> list[str]:
        return [text[start:end] for start, end in split_text(text, max_chars)]

    assert chunks("One one.\n\nTwo two.\n \nThree.", 19) == ["One one.\n\nTwo two.", "Three."]
    assert chunks("One one.\nTwo two.\nThree.", 18) == ["One one.\nTwo two.", "Three."]
    assert chunks('He said "no." She left. So did I.', 23) == ['He said "no." She left.', "So did I."]
    assert chunks("alpha beta gamma", 11) == ["alpha beta", "gamma"]
    assert chunks("abcdefgh", 3) == ["abc", "def", "gh"]
    assert chunks("short", 100) == ["short"]
    assert chunks("一二三。四五六。", 4) == ["一二三。", "四五六。"]


def test_most_harmful_span_is_at_middle_of_most_harmful_chunk() -> None:
    text = "\n\n".join(letter * 20 for letter in "abcd")

    def span(*chunks: tuple[int, int]) -> str:
        return most_harmful_span(text, [{"end": end, "score": score} for end, score in chunks], 20)

    assert span((22, 0), (44, 1), (66, 5), (86, 0)) == "c" * 20
    assert span((60, 5), (86, 0)) == "b" * 20
    assert span((80, 0), (86, 5)) == "d" * 20  # the last chunk is short
    assert span() == most_harmful_span(text, None, 20) == "a" * 20
    assert most_harmful_span("short", [{"end": 5, "score": 3}], 20) == "short"


def test_join_texts_returns_span_of_each_text() -> None:
    text, spans = join_texts(["One.", "Two two.", "Three."])
    assert [text[start:end] for start, end in spans] == ["One.", "Two two.", "Three."]


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet='ab.!"” \n\t。', max_size=300), st.integers(1, 80))
def test_join_source_keeps_places_of_chunks(text: str, max_chars: int) -> None:
    spans = split_text(text, max_chars)
    joined = join_source([text[start:end] for start, end in spans], [start for start, _ in spans])
    assert [joined[start:end] for start, end in spans] == [text[start:end] for start, end in spans]
    assert joined.split() == text.split()
