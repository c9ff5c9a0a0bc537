"""Token ids of prompts, whole or not at all; tasks; rows of results."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from safety_ray.core.errors import UserError
from safety_ray.core.tag import start_ids
from safety_ray.evaluate import model, results, tasks
from safety_ray.evaluate.documents import Document
from safety_ray.evaluate.prompt_sets import HARMFUL, Prompt


def prompts(*texts: str, prompt_set: str = "mine") -> list[Prompt]:
    return [Prompt(prompt_set, HARMFUL, str(n), str(n), text) for n, text in enumerate(texts)]


def test_encode_prompts_returns_whole_or_too_long_prompts(model_path: str) -> None:
    described = model.describe(model_path)
    tokenizer = AutoTokenizer.from_pretrained(described.folder)
    long = "word " * 300
    encoded = tasks.encode_prompts(
        described, prompts("How do I bake bread?", long, "Why?"), max_new_tokens=8, chat=False
    )
    assert [tokenizer.decode(ids) for ids in encoded.ids] == ["How do I bake bread?", "Why?"]
    assert [prompt.id for prompt in encoded.prompts] == ["0", "2"]
    [(prompt, length)] = encoded.too_long
    assert (prompt.id, length) == ("1", len(tokenizer(long)["input_ids"]))
    # The prompt and its answer may fill the context of 128 tokens exactly.
    ids = tokenizer("Why?")["input_ids"]
    exact = tasks.encode_prompts(described, prompts("Why?"), max_new_tokens=128 - len(ids), chat=False)
    assert exact.ids == [ids]
    with pytest.raises(UserError, match="context of 128 tokens is too short for each of the 1 prompts"):
        tasks.encode_prompts(described, prompts("Why?"), max_new_tokens=129 - len(ids), chat=False)


def test_encode_prompts_uses_chat_template_except_for_documents(untagged_path: str, model_path: str) -> None:
    described = model.describe(untagged_path)
    assert described.tag_id is None
    tokenizer = AutoTokenizer.from_pretrained(untagged_path)
    both = [*prompts("Why <|im_end|> now?"), *prompts("It was a dark night", prompt_set="documents")]
    chat, plain = tasks.encode_prompts(described, both, max_new_tokens=8, chat=True).ids
    assert (
        tokenizer.decode(chat) == "<|im_start|>user\nWhy <|im_end|> now?<|im_end|>\n<|im_start|>assistant\n"
    )
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert chat.count(end) == 1, "a prompt cannot spell the end of its turn"
    assert tokenizer.decode(plain) == "It was a dark night"
    with pytest.raises(UserError, match=r"chat: .* has no chat template; set chat=false"):
        tasks.encode_prompts(model.describe(model_path), both, max_new_tokens=8, chat=True)


def test_size_and_tag_rate_of_training_are_those_on_record(tmp_path: Path) -> None:
    def write(name: str, **record: Any) -> str:
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "record.json").write_text(json.dumps(record))
        return str(tmp_path / name)

    rows = write("pack", config={"tag_rate": 0.2})
    trained = {"tokens": 300, "parameters": 200}
    new = write("new", config={"model": {"init": ""}, "rows": rows}, **trained)
    continued = write(
        "continued", config={"model": {"init": "a-model"}, "rows": f"{tmp_path}/gone"}, **trained
    )
    expected = {"tokens_per_parameter": 1.5, "continued": False}
    assert model.training_size(new) == model.training_size(f"{new}/model") == expected
    assert model.training_size(continued) == {**expected, "continued": True}
    finetuned = write("finetuned", config={"model": f"{new}/model"})
    assert model.training_size(write("again", config={"model": finetuned})) == expected
    loop = write("loop", config={"model": f"{tmp_path}/loop"})
    nowhere = write("nowhere", config={"model": "runs/demo/pretrain"})
    for path in (nowhere, loop, "HuggingFaceTB/SmolLM2-135M", write("other", config={})):
        assert model.training_size(path) == {}
        assert model.tag_rate(path) == 0.05
    assert model.tag_rate(new) == model.tag_rate(finetuned) == 0.2
    assert model.tag_rate(continued) == 0.05


def test_start_ids_are_those_that_tokenizer_puts_first(model_path: str) -> None:
    assert start_ids(AutoTokenizer.from_pretrained(f"{model_path}/model")) == []
    words = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "a": 2, "?": 3}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    assert start_ids(PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>")) == [0]
    words.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    assert start_ids(PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>")) == []


def test_answer_tasks_cover_all_prompts_with_each_decoder() -> None:
    lengths = [3, 9, 1, 4, 9, 2, 7]
    encoded = tasks.PromptIds(prompts(*map(str, lengths)), [[5] * n for n in lengths], [])
    made = tasks.answer_tasks(encoded, ["beam", "sample"], size=3, seed=1)
    assert len({task.name for task in made}) == len(made) == 6
    results_of = {task.name: [{"length": len(row)} for row in task.rows] for task in made}
    for decoder in ("beam", "sample"):
        rows = tasks.rows_of(made, results_of, decoder)
        assert [row["length"] for row in rows] == lengths, "rows are in the order of the prompts"
        grouped = [sorted(len(row) for row in task.rows) for task in made if task.kind == decoder]
        assert grouped == [[9], [4, 7, 9], [1, 2, 3]], "similar lengths together, the longest first"
    assert tasks.seeds_of(made, "beam") == [None] * 7
    seeds = tasks.seeds_of(made, "sample")
    assert len(set(seeds)) == 7
    assert seeds == tasks.seeds_of(tasks.answer_tasks(encoded, ["sample"], size=2, seed=1), "sample")


def test_answer_tasks_repeat_prompts_for_decoders_that_sample() -> None:
    encoded = tasks.PromptIds(prompts("a", "b"), [[5], [5, 6]], [])
    made = tasks.answer_tasks(encoded, ["beam", "sample"], size=4, seed=1, samples=3)
    found = {
        t.name: [{"answer": f"{ids} {seed}"} for ids, seed in zip(t.rows, t.seeds, strict=True)] for t in made
    }
    names = ("beam", "sample")
    rows = results.make_rows(
        encoded.prompts,
        {name: tasks.rows_of(made, found, name) for name in names},
        {name: tasks.seeds_of(made, name) for name in names},
    )
    assert [(row["id"], row["decoder"], row["sample"]) for row in rows] == [
        (id, decoder, sample)
        for id in "01"
        for decoder, each in (("beam", 1), ("sample", 3))
        for sample in range(each)
    ]
    for row in rows:
        ids = encoded.ids[int(row["id"])]
        assert row["answer"].startswith(f"{ids} "), "an answer to this prompt"
        assert row["seed"] is None or row["answer"] == f"{ids} {row['seed']}"
    assert len({row["seed"] for row in rows}) == 7, "six seeds, and None of beam search"
    one = tasks.answer_tasks(encoded, ["sample"], size=4, seed=1)
    assert tasks.seeds_of(one, "sample") == [
        row["seed"] for row in rows if (row["decoder"], row["sample"]) == ("sample", 0)
    ]


def test_read_tasks_cut_documents_at_token_limit(model_path: str) -> None:
    described = model.describe(model_path)
    documents = [Document(str(n), "some words and more " * n, False) for n in (1, 40, 2)]
    made = tasks.read_tasks(described, documents, document_tokens=50)
    rows = [row for task in made for row in task.rows]
    ids = AutoTokenizer.from_pretrained(described.folder)([d.text for d in documents])["input_ids"]
    assert rows == [row[:50] for row in ids]


def answer(**other: Any) -> dict[str, Any]:
    return {"answer": "No.", "tokens": 2, "log_prob": -1.0, "finished": True, "p_tag": None, **other}


def test_results_round_trip_keeps_rows_without_verdicts(tmp_path: Path) -> None:
    rows = results.make_rows(
        prompts("Why?", "How?"),
        {"beam": [answer(), answer(answer="Fine ☃\u2028and\x85\x0clong")], "sample": [answer(), answer()]},
        {"beam": [None, None], "sample": [3, 4]},
    )
    assert [(row["id"], row["decoder"], row["seed"]) for row in rows] == [
        ("0", "beam", None), ("0", "sample", 3), ("1", "beam", None), ("1", "sample", 4),
    ]  # fmt: skip
    judged = results.add_verdicts(rows, {"refusal": [{"harmful": False}] * 4})
    results.write(str(tmp_path / "results.jsonl"), judged)
    assert results.read(str(tmp_path)) == results.read(str(tmp_path / "results.jsonl")) == rows
    assert results.answers_of(rows)[2].text == "Fine ☃\u2028and\x85\x0clong"


def test_results_read_accepts_answers_of_other_software(tmp_path: Path) -> None:
    row = {"prompt_set": "s", "kind": HARMFUL, "id": "1", "prompt": "p", "decoder": "api", "answer": "a"}
    (tmp_path / "mine.jsonl").write_text(json.dumps(row) + "\n")
    assert results.read(str(tmp_path / "mine.jsonl")) == [{**row, "group": "1"}]
    rows = [{**row, "group": None}, {**row, "id": "2", "group": ""}, {**row, "id": "3", "group": 7}]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [row["group"] for row in results.read(str(tmp_path / "mine.jsonl"))] == ["1", "2", "7"]


COMPLETE = dict.fromkeys(results.REQUIRED, "x")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{"], "line 1 is not valid JSON"),
        (["[" * 20_000 + "]" * 20_000], "line 1 is not valid JSON"),
        (['{"prompt_set": "s"}'], "line 1: the key 'kind' must be a text"),
        (["[]"], "line 1: the key 'prompt_set' must be a text"),
        ([json.dumps(dict.fromkeys(results.REQUIRED, "x"))], "line 1: kind must be one of harmful, harmless"),
        (
            [json.dumps({**dict.fromkeys(results.REQUIRED, "x"), "kind": HARMFUL})] * 2,
            "line 2 repeats id 'x'",
        ),
        ([], "has no rows"),
    ],
)
def test_results_read_names_invalid_line(tmp_path: Path, lines: list[str], message: str) -> None:
    (tmp_path / "results.jsonl").write_text("\n".join(lines))
    with pytest.raises(UserError, match=message):
        results.read(str(tmp_path))
    with pytest.raises(UserError, match="does not exist"):
        results.read(str(tmp_path / "none"))
    (tmp_path / "results.jsonl").write_bytes('{"answer": "é"}'.encode("latin-1"))
    with pytest.raises(UserError, match=r"is not UTF-8: .* at byte 12"):
        results.read(str(tmp_path))


def test_describe_rejects_slow_tokenizer(model_path: str, tmp_path: Path) -> None:
    shutil.copytree(f"{model_path}/model", tmp_path / "slow")
    for file in (tmp_path / "slow").glob("*token*"):
        file.unlink()
    ByT5Tokenizer().save_pretrained(tmp_path / "slow")
    with pytest.raises(UserError, match=r"has no tokenizer\.json; only fast tokenizers are supported"):
        model.describe(str(tmp_path / "slow"))
