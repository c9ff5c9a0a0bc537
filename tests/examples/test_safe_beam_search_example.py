"""The script on its toy model and on a model folder, compared with the library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from example import load_example

import safety_ray

script = load_example("safe_beam_search")


@pytest.fixture(scope="module")
def toy() -> tuple[Any, Any]:
    tokenizer = script.toy_tokenizer()
    tokenizer.pad_token = script.END
    return script.toy_model(tokenizer), tokenizer


def test_example_safe_beam_search_avoids_unkind_text(toy: Any, capsys: pytest.CaptureFixture[str]) -> None:
    script.main([])
    plain, safe = capsys.readouterr().out.splitlines()
    assert "beam search: " in plain
    assert any(word in plain for word in script.UNKIND)
    assert "Safe Beam Search: " in safe
    assert any(word in safe for word in script.KIND)
    assert not any(word in safe for word in script.UNKIND)


@pytest.mark.parametrize("drop_share", [0.0, 0.25, 0.5])
def test_example_safe_beam_search_matches_library(toy: Any, drop_share: float) -> None:
    model, tokenizer = toy
    tag_id, eos_id = tokenizer.convert_tokens_to_ids([script.TAG, script.END])
    for prompt in ("a knight met a man and", "a man", "the knight ."):
        prompt_ids = tokenizer(prompt)["input_ids"]
        tokens, score, p_tags = script.safe_beam_search(
            model, prompt_ids, tag_id, eos_id, k=3, n=4, max_new_tokens=9, drop_share=drop_share
        )
        best, *_ = safety_ray.safe_beam_search(
            model,
            prompt_ids,
            tag_id=tag_id,
            eos_id=eos_id,
            beam_size=3,
            num_candidates=4,
            max_new_tokens=9,
            drop_share=drop_share,
        )
        assert tokens == best.token_ids
        assert score == pytest.approx(best.log_prob, abs=1e-3)
        assert p_tags == pytest.approx(best.p_tag, abs=1e-4)


def test_example_safe_beam_search_reads_model_folder(
    toy: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, tokenizer = toy
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    script.main(["--model", str(tmp_path), "--prompt", "a knight met a man and"])
    assert "Safe Beam Search: " in capsys.readouterr().out
