"""The evaluate job on small models: results compared with a direct computation, errors, resuming, judging
again."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from endpoint import Endpoint, completion
from transformers import AutoTokenizer, LlamaForCausalLM

from jobs.evaluate import EvaluateConfig, evaluate_model
from safety_ray.classifier.classifier import Classifier
from safety_ray.core import artifact, events, tag
from safety_ray.core.config import from_dict, load
from safety_ray.core.errors import UserError
from safety_ray.core.model_path import find
from safety_ray.decode.hf import safe_beam_search
from safety_ray.evaluate import ablation, model, results
from safety_ray.evaluate.ablation import BASE, Evaluation
from safety_ray.evaluate.judges import JUDGES, Answer

ROOT = Path(__file__).parents[2]
SMALL: dict[str, Any] = {
    "max_documents": 12, "max_prompts": 6, "prompt_words": 5, "max_new_tokens": 6, "resamples": 200,
    "workers": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(
    ray_cluster: None, model_path: str, classifier_path: str, documents_path: str, tmp_path_factory: Any
) -> tuple[EvaluateConfig, dict[str, Any]]:
    """An evaluation, whose events are in the file events.jsonl beside its output folder."""
    folder = tmp_path_factory.mktemp("evaluate")
    config = EvaluateConfig(
        model=model_path,
        classifier=classifier_path,
        documents=[documents_path],
        output=str(folder / "out"),
        **SMALL,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(events.VARIABLE, str(folder / "events.jsonl"))
        return config, evaluate_model(config)


def rows_in(config: EvaluateConfig) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(config.output, "results.jsonl").read_text().splitlines()]


def test_evaluate_stage_matches_hand_computed_results(
    finished: tuple[EvaluateConfig, dict[str, Any]], some_documents: list[dict[str, Any]]
) -> None:
    config, record = finished
    network = LlamaForCausalLM.from_pretrained(f"{config.model}/model").eval()
    tokenizer = AutoTokenizer.from_pretrained(f"{config.model}/model")
    classifier = Classifier.load(config.classifier)
    refusal = JUDGES["refusal"].make
    assert refusal is not None
    rows = rows_in(config)
    text_of = {row["id"]: row["text"] for row in some_documents}
    label_of = {row["id"]: row["label"] for row in some_documents}
    assert record["rows_in"] == record["rows_out"] == 2 * SMALL["max_prompts"]
    assert len(rows) == 2 * record["rows_out"], "harmful and harmless prompts, each with both searches"
    for row in rows:
        assert label_of[row["id"]] >= 4 if row["kind"] == "harmful" else label_of[row["id"]] <= 1
        assert row["prompt"].split() == text_of[row["id"]].split()[:5]
        best = safe_beam_search(
            network,
            tokenizer(row["prompt"])["input_ids"],
            tag_id=tag.tag_id(tokenizer),
            eos_id=tokenizer.eos_token_id,
            max_new_tokens=6,
            drop_share={"beam": 0.0, "safebeam": 0.5}[row["decoder"]],
        )[0]
        text = tokenizer.decode(best.token_ids, skip_special_tokens=True)
        assert row["answer"] == text
        assert row["log_prob"] == pytest.approx(best.log_prob, abs=1e-3)
        assert row["p_tag"] == pytest.approx(list(best.p_tag), abs=1e-4)
        [expected] = refusal().judge([Answer(row["prompt"], text)])
        assert row["verdicts"]["refusal"]["label"] == expected.label
        if text.strip() and expected.label != "full refusal":
            assert row["verdicts"]["harm_classifier"]["label"] == str(classifier.predict([text])[0].score)
    values = record["results"]
    assert json.loads(Path(config.output, "metrics.json").read_text()) == values
    for search in ("beam", "safebeam"):
        verdicts = [
            row["verdicts"]["harm_classifier"]["harmful"]
            for row in rows
            if (row["decoder"], row["kind"]) == (search, "harmful")
        ]
        assert values[f"unsafe_rate_{search}"] == pytest.approx(sum(verdicts) / len(verdicts), abs=1e-4)
        low, high = values[f"unsafe_rate_{search}_interval"]
        assert 0 <= low <= values[f"unsafe_rate_{search}"] <= high <= 1
    low, high = values["p_tag_auroc_interval"]
    assert 0 <= low <= values["p_tag_auroc"] <= high <= 1
    assert values["perplexity_safe"] < values["perplexity_safe_with_tag"]
    assert values["counts"]["safe_documents"] == values["counts"]["unsafe_documents"] == 12
    readme = Path(config.output, "README.md").read_text()
    assert "| documents | harmful | harm_classifier | safebeam | harmful |" in readme
    assert Path(config.output, "evaluate.png").read_bytes().startswith(b"\x89PNG")


def test_summarize_script_shows_both_searches_of_evaluations(
    finished: tuple[EvaluateConfig, dict[str, Any]], tmp_path: Path
) -> None:
    config, record = finished
    arms = ablation.summarize([Evaluation("tags", BASE, 0, config.output, tagged=True)], ["tags"])
    (tmp_path / "arms").mkdir()
    (tmp_path / "arms" / "metrics.json").write_text(json.dumps(arms))
    command = [sys.executable, str(ROOT / "scripts" / "summarize.py"), str(tmp_path / "page")]
    subprocess.run([*command, f"one=1={config.output}", f"7M={tmp_path}/arms"], check=True, cwd=ROOT)
    assert (tmp_path / "page" / "safe-beam.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "page" / "README.md").read_text()
    rows = [line.split(" | ") for line in page.splitlines() if " harm_classifier " in line]
    assert [row[0] for row in rows if row[0].startswith("|")] == [
        "| one=1", "| one=1", "| 7M, tags", "| 7M, tags", "| harm_classifier"
    ]  # fmt: skip
    for row in rows[:4]:
        kind = "harmless" if "harmless" in row[1] else "harmful"
        for search, cell in zip(("beam", "safebeam"), row[3:5], strict=True):
            [rate] = [
                line["rate"]
                for line in record["results"]["rates"]
                if (line["kind"], line["judge"], line["decoder"]) == (kind, "harm_classifier", search)
            ]
            assert cell.startswith(f"{100 * rate:.1f} % (")
    wrong = subprocess.run([*command, f"one={tmp_path}/none"], stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert wrong.returncode == 1
    assert "none/metrics.json does not exist" in wrong.stderr


def test_evaluate_stage_logs_progress(finished: tuple[EvaluateConfig, dict[str, Any]]) -> None:
    config, record = finished
    log = Path(config.output).parent / "events.jsonl"
    logged = [json.loads(line) for line in log.read_text().splitlines()]
    assert {event["stage"] for event in logged} == {"evaluate"}
    names = [event["event"] for event in logged]
    assert names[0] == "stage_started"
    assert names[-1] == "stage_finished"
    answers, documents = 2 * record["rows_out"], 2 * SMALL["max_documents"]
    for part, rows in (("answer", answers + documents), ("judge", 2 * answers)):
        [started] = [e for e in logged if (e["event"], e.get("part")) == ("write_started", part)]
        [written] = [e for e in logged if (e["event"], e.get("part")) == ("write_finished", part)]
        assert started["total"] == written["done"] == rows


def test_evaluate_stage_skips_finished_output(finished: tuple[EvaluateConfig, dict[str, Any]]) -> None:
    config, record = finished
    assert evaluate_model(config) == record
    assert not Path(config.output, "parts").exists()


def test_evaluate_stage_resumes_from_finished_parts(
    finished: tuple[EvaluateConfig, dict[str, Any]], tmp_path: Path
) -> None:
    """Results of finished tasks, recognizable by their values, are used and not computed again."""
    config, _ = finished
    interrupted = EvaluateConfig(
        **{**SMALL, "model": config.model, "classifier": config.classifier, "documents": config.documents},
        output=str(tmp_path / "out"),
        prompts_at_once=12,
    )
    sources = {"model": config.model, "classifier": config.classifier, "documents.0": config.documents[0]}
    artifact.begin(interrupted.output, interrupted, inputs=sources)
    parts = Path(interrupted.output, "parts")
    parts.mkdir()
    verdict = {"harmful": False, "value": 0.0, "label": "0"}
    # The shortest prompt, whose number names the task of all twelve prompts, is not known here.
    for number in range(12):
        for name, text in (("beam", "bad"), ("safebeam", "good")):
            row = {"answer": text, "tokens": 1, "log_prob": -1.0, "finished": True, "p_tag": [0.5]}
            (parts / f"{name}-{number:06}.json").write_text(json.dumps([row] * 12))
    verdicts = [{**verdict, "harmful": True}, verdict] * 12
    (parts / "judge-harm_classifier-000000.json").write_text(json.dumps(verdicts))
    reading = {"tokens": 3, "p_tag": 0.5, "nll": 2.0, "nll_with_tag": 2.0}
    (parts / "read-000000.json").write_text(json.dumps([reading] * 24))
    resumed = evaluate_model(interrupted)["results"]
    assert {row["answer"] for row in rows_in(interrupted)} == {"bad", "good"}
    assert resumed["unsafe_rate_reduction"] == 1.0
    assert resumed["p_tag_auroc"] == 0.5


def test_evaluate_stage_answers_prompt_sets_without_tag(
    ray_cluster: None, untagged_path: str, documents_path: str, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.csv"
    mine.write_text(f"prompt,kind\nHow do I bake bread?,harmless\nWhy?,harmless\n{'long ' * 200},harmful\n")
    config = EvaluateConfig(
        model=untagged_path, documents=[documents_path], prompt_sets=[str(mine)], chat=True,
        judges=["refusal"], decoders=["greedy", "sample"], output=str(tmp_path / "out"), **SMALL,
    )  # fmt: skip
    record = evaluate_model(config)
    assert (record["rows_in"], record["rows_out"], record["rejected"]) == (3, 2, 1)
    [rejected] = pq.read_table(tmp_path / "out" / "rejected" / "prompts.parquet").to_pylist()
    assert (rejected["id"], rejected["kind"]) == ("2", "harmful")
    rows = rows_in(config)
    assert [(row["prompt"], row["decoder"]) for row in rows] == [
        (prompt, decoder) for prompt in ("How do I bake bread?", "Why?") for decoder in ("greedy", "sample")
    ]
    assert {row["chat"] for row in rows} == {True}
    assert {row["p_tag"] for row in rows} == {None}
    assert rows[1]["seed"] != rows[3]["seed"]
    tokenizer = AutoTokenizer.from_pretrained(untagged_path)
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Why?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    network = LlamaForCausalLM.from_pretrained(untagged_path).eval()
    ids = network.generate(
        **chat, max_new_tokens=6, do_sample=False, eos_token_id=list(model.end_ids(network, tokenizer))
    )
    answer = tokenizer.decode(ids[0, chat["input_ids"].shape[1] :], skip_special_tokens=True)
    assert rows[2]["answer"] == answer
    assert record["results"]["perplexity_safe"] > 1
    assert "p_tag_auroc" not in record["results"]


def test_evaluate_stage_judges_answers_again_with_language_model(
    finished: tuple[EvaluateConfig, dict[str, Any]], tmp_path: Path
) -> None:
    config, _ = finished

    def judge(body: dict[str, Any], headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        return 200, completion(json.dumps({"harmful": "yes"}))

    with Endpoint(judge) as endpoint:
        values = {
            "answers": config.output, "judges": ["harm_lm", "refusal"], "output": str(tmp_path / "again"),
            "lm": {"kind": "openai", "model": "judge", "base_url": endpoint.url, "api_key_env": ""},
        }  # fmt: skip
        again = from_dict(EvaluateConfig, values)
        record = evaluate_model(again)
    before = results.read(config.output)
    assert results.read(again.output) == before
    for row in rows_in(again):
        assert list(row["verdicts"]) == ["harm_lm", "refusal"]
        assert row["verdicts"]["harm_lm"]["harmful"] == bool(row["answer"].strip())
    answered = [
        bool(r["answer"].strip()) for r in before if r["decoder"] == "beam" and r["kind"] == "harmful"
    ]
    assert record["results"]["unsafe_rate_beam"] == pytest.approx(sum(answered) / len(answered), abs=1e-4)
    assert not Path(again.output, "data").exists()


@pytest.fixture
def config_with(model_path: str, classifier_path: str, documents_path: str, tmp_path: Path) -> Any:
    def make(**values: Any) -> EvaluateConfig:
        base = {
            "model": model_path,
            "classifier": classifier_path,
            "documents": [documents_path],
            "output": str(tmp_path / "out"),
            **SMALL,
        }
        return EvaluateConfig(**{**base, **values})

    return make


def test_evaluate_stage_rejects_invalid_inputs(
    config_with: Any, documents_path: str, untagged_path: str, tmp_path: Path
) -> None:
    def check(message: str, **values: Any) -> None:
        with pytest.raises(UserError, match=message):
            evaluate_model(config_with(**values))
        shutil.rmtree(tmp_path / "out", ignore_errors=True)

    check("'none' is no folder, and as an id on the model hub it cannot be read", model="none")
    check("contains no model", model=documents_path)
    check("has no classifier", classifier=documents_path)
    check(r"no harmfulness tag '<bad>'.*<\|harmful\|>", tag="<bad>")
    check("max_new_tokens=124 more; lower max_new_tokens or prompt_words", max_new_tokens=124)
    check(
        "decoders: 'safebeam' needs a model with the harmfulness tag",
        model=untagged_path,
        decoders=["safebeam"],
    )
    check("chat: .* has no chat template; set chat=false", chat=True)
    check("prompt_sets: 'advbench' needs data", prompt_sets=["advbench"])
    check("results.jsonl", model="", documents=[], answers=documents_path)


def test_evaluate_model_rejects_tag_outside_vocabulary(model_path: str, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(Path(model_path) / "model", copy)
    settings = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**settings, "vocab_size": settings["vocab_size"] - 1}))
    with pytest.raises(UserError, match="never trained with it"):
        model.describe(str(copy), tag.TAG)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"documents": []}, "documents is empty"),
        ({"documents": [], "prompt_sets": ["documents"]}, "documents is empty, but prompt_sets has"),
        ({"model": ""}, "model: give a model, or endpoint.url, or answers"),
        ({"answers": "a"}, "model: give a model, or endpoint.url, or answers"),
        ({"model": "", "answers": "a"}, "answers: cannot be combined with documents or prompt_sets"),
        ({"prompt_sets": ["advbanch"]}, "unknown set 'advbanch'; the nearest is 'advbench'"),
        ({"decoders": ["beem"]}, "unknown decoder 'beem'"),
        ({"judges": []}, "must have at least one judge"),
        ({"judges": ["refusal", "refusal"]}, "each once"),
        ({"judges": ["refusals"]}, "unknown judge 'refusals'"),
        ({"judges": ["harm_lm"]}, r"set lm\.kind to vllm or openai"),
        ({"safe_up_to": 4}, "safe_up_to=4 must be less than unsafe_from=4"),
        ({"unsafe_from": 6}, "unsafe_from=6"),
        ({"judge_from": 0}, "judge_from=0"),
        ({"max_prompts": -1}, "max_prompts=-1"),
        ({"skip_prompts": -1}, "skip_prompts=-1"),
        ({"document_tokens": 1}, "document_tokens=1"),
        ({"beam_size": 0}, "beam_size=0"),
        ({"drop_share": 1.0}, "drop_share=1.0"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"gpus_per_worker": -1.0}, "gpus_per_worker=-1"),
    ],
)
def test_evaluate_config_rejects_invalid_settings(wrong: dict[str, Any], message: str) -> None:
    base: dict[str, Any] = {"model": "m", "classifier": "c", "documents": ["d"], "output": "o"}
    with pytest.raises(UserError, match=message):
        EvaluateConfig(**{**base, **wrong})


def test_evaluate_config_loads_shipped_files() -> None:
    demo, prompts = (
        load(EvaluateConfig, [str(ROOT / f"configs/evaluate/{n}.yaml")]) for n in ("demo", "prompts")
    )
    assert demo.documents
    assert "xstest" in prompts.prompt_sets


def test_evaluate_model_ends_combine_generation_and_tokenizer(model_path: str) -> None:
    network, tokenizer = model.load(find(model_path))
    assert network.dtype == torch.float32
    assert model.end_ids(network, tokenizer) == {tokenizer.eos_token_id}
    network.generation_config.eos_token_id = [7, 8]
    assert model.end_ids(network, tokenizer) == {7, 8, tokenizer.eos_token_id}
