"""Long texts cut at paragraphs: nothing is lost, nothing is too long, cuts are where they should be."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from safety_ray.rewrite.split import join, stretches, worst


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet='ab.!"” \n\t。', max_size=300), st.integers(1, 80))
def test_split_stretches_cover_text_without_overlap(text: str, most: int) -> None:
    found = stretches(text, most)
    assert all(0 <= end - start <= most for start, end in found)
    assert all(one.end <= other.start for one, other in itertools.pairwise(found))
    between = [text[one.end : other.start] for one, other in itertools.pairwise(found)]
    outside = [text[: found[0].start], text[found[-1].end :]]
    assert not "".join(between + outside).strip()


def test_split_prefers_paragraphs_then_lines_sentences_words() -> None:
    def parts(text: str, most: int) -> list[str]:
        return [text[start:end] for start, end in stretches(text, most)]

    assert parts("One one.\n\nTwo two.\n \nThree.", 19) == ["One one.\n\nTwo two.", "Three."]
    assert parts("One one.\nTwo two.\nThree.", 18) == ["One one.\nTwo two.", "Three."]
    assert parts('He said "no." She left. So did I.', 23) == ['He said "no." She left.', "So did I."]
    assert parts("alpha beta gamma", 11) == ["alpha beta", "gamma"]
    assert parts("abcdefgh", 3) == ["abc", "def", "gh"]
    assert parts("short", 100) == ["short"]
    assert parts("一二三。四五六。", 4) == ["一二三。", "四五六。"]


def test_split_worst_returns_stretch_of_highest_chunk() -> None:
    text = "\n\n".join(letter * 20 for letter in "abcd")
    assert worst(text, [0, 1, 5, 0], 20) == "c" * 20
    assert worst(text, [5, 0], 20)[0] == "b"  # the middle of the first half
    assert worst(text, None, 20) == worst(text, [], 20) == "a" * 20
    assert worst("short", [3], 20) == "short"


def test_split_join_returns_position_of_each_text() -> None:
    text, places = join(["One.", "Two two.", "Three."])
    assert [text[start:end] for start, end in places] == ["One.", "Two two.", "Three."]
