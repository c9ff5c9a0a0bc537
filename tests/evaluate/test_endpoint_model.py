"""A model behind an endpoint: requests with the documented fields of OpenAI and of this project's server."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from endpoint import Endpoint as Server
from endpoint import completion

from jobs.evaluate import EvaluateConfig, evaluate_model
from safety_ray.core.config import from_dict
from safety_ray.core.errors import UserError
from safety_ray.decode.modes import MODES, PARAMETERS
from safety_ray.evaluate.asking import ask
from safety_ray.evaluate.decoders import DECODERS
from safety_ray.evaluate.endpoint import Endpoint, EndpointConfig
from safety_ray.evaluate.prompt_sets import DOCUMENTS, HARMFUL, HARMLESS, Prompt
from safety_ray.evaluate.settings import Decoding

LONG_S = 300.0
VARIANT: dict[str, Any] = {"drop_by": "word", "drop_threshold": 0.01, "early_stopping": "never"}
DECODING = Decoding(
    tag_id=None, eos_ids=frozenset(), max_new_tokens=7, beam_size=3, drop_share=0.25, **VARIANT
)
WITH_MODES = {"/v1/safety": {"modes": list(MODES)}}
PROMPTS = [
    Prompt("mine", HARMFUL, "a", "a", "Why?"),
    Prompt(DOCUMENTS, HARMLESS, "b", "b", "Once upon"),
    Prompt("mine", HARMLESS, "c", "c", "too long"),
]


def reply(body: dict[str, Any], headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
    """Repeat the prompt, or refuse it as servers do if it is too long."""
    text = body["prompt"] if "prompt" in body else body["messages"][0]["content"]
    if text == "too long":
        return 400, {"error": {"message": "the context is too short"}}
    made = completion(f"{text} {body.get('seed', '')}", "length")
    if "prompt" in body:
        made["choices"] = [{"index": 0, "text": f"{text} …", "finish_reason": "stop"}]
    if "safety" in body:
        made["choices"][0]["safety"] = {
            "mode": body["safety"]["mode"],
            "stopped": body["safety"]["mode"] == "stop",
        }
    return 200, made


def asked(
    server: Server, names: list[str], parts: Path, samples: int = 1, **changes: Any
) -> tuple[list[dict[str, Any]], list[Any]]:
    endpoint = Endpoint(EndpointConfig(url=server.url, model="m", **changes))
    return ask(
        endpoint, PROMPTS, endpoint.choose(names), DECODING,
        chat=True, seed=0, samples=samples, parts=str(parts),
    )  # fmt: skip


def test_ask_sends_each_decoder_to_server_with_modes(tmp_path: Path) -> None:
    with Server(reply, gets=WITH_MODES) as server:
        rows, refused = asked(server, list(DECODERS), tmp_path / "parts")
        bodies = [request["body"] for request in server.requests if request["body"]]
        again = asked(server, list(DECODERS), tmp_path / "parts")
        assert len([r for r in server.requests if r["body"]]) == len(bodies), (
            "finished parts are not asked again"
        )
    assert again == (rows, refused)
    assert len(bodies) == len(PROMPTS) * len(DECODERS)
    assert {body["max_tokens"] for body in bodies} == {7}
    sent = {json.dumps(body["safety"], sort_keys=True) for body in bodies}
    drop = {"drop_share": 0.25, "drop_by": "word", "drop_threshold": 0.01}
    search = {"mode": "safebeam", "beam_size": 3, "num_candidates": 4, **VARIANT}
    assert sent == {
        json.dumps(fields, sort_keys=True)
        for fields in (
            {"mode": "mask"}, search | {"drop_share": 0.0}, search | {"drop_share": 0.25},
            {"mode": "sample", "num_candidates": 4, **drop}, {"mode": "stop", "threshold": 0.03},
        )
    }  # fmt: skip
    for fields in map(json.loads, sent):
        assert fields.keys() - {"mode"} <= set(MODES[fields["mode"]].parameters) <= PARAMETERS.keys()
    assert [(row["prompt_set"], row["decoder"]) for row in rows] == [
        (name, decoder) for name in ("mine", DOCUMENTS) for decoder in DECODERS
    ]
    by_decoder = {row["decoder"]: row for row in rows if row["prompt_set"] == "mine"}
    assert by_decoder["greedy"]["seed"] is None
    assert by_decoder["sample"]["answer"] == f"Why? {by_decoder['sample']['seed']}"
    assert [d for d, row in by_decoder.items() if row["tag_emitted"]] == ["stop"]
    assert {(row["finished"], row["p_tag"]) for row in rows} == {(False, None), (True, None)}
    assert [(row["prompt"].id, row["reason"]) for row in refused] == [
        ("c", "HTTP 400: the context is too short")
    ]


def test_ask_keeps_all_connections_busy_beyond_a_task(tmp_path: Path) -> None:
    together = threading.Barrier(40)  # more than the prompts of a task

    def wait(body: dict[str, Any], headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        together.wait(LONG_S)
        return reply(body, headers)

    prompts = [Prompt("mine", HARMFUL, f"p{n}", "a", f"Why {n}?") for n in range(80)]
    with Server(wait) as server:
        endpoint = Endpoint(EndpointConfig(url=server.url, model="m", concurrency=40))
        rows, _ = ask(endpoint, prompts, ["greedy"], DECODING, chat=True, seed=0, parts=str(tmp_path))
    assert [row["answer"] for row in rows] == [f"Why {n}? " for n in range(80)]


def test_ask_sends_no_further_request_after_an_error(tmp_path: Path) -> None:
    def refuse(body: dict[str, Any], headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        time.sleep(0.1)  # all requests would take as long as 20 seconds
        return 503, {"error": {}}

    prompts = [Prompt("mine", HARMFUL, f"p{n}", "a", "Why?") for n in range(200)]
    with Server(refuse) as server:
        endpoint = Endpoint(EndpointConfig(url=server.url, model="m", concurrency=1, retries=0))
        with pytest.raises(UserError, match="HTTP 503"):
            ask(endpoint, prompts, ["greedy"], DECODING, chat=True, seed=0, parts=str(tmp_path))
        assert len([request for request in server.requests if request["body"]]) < 200


def test_ask_repeats_prompts_for_decoders_that_sample(tmp_path: Path) -> None:
    with Server(reply) as server:
        rows, refused = asked(server, ["greedy", "sample"], tmp_path / "several", samples=3)
        once, _ = asked(server, ["sample"], tmp_path / "once")
    assert [(row["id"], row["decoder"], row["sample"]) for row in rows] == [
        (id, decoder, sample)
        for id in "ab"
        for decoder, number in (("greedy", 1), ("sample", 3))
        for sample in range(number)
    ]
    sampled = [row for row in rows if row["decoder"] == "sample"]
    assert [row["answer"] for row in sampled if row["id"] == "a"] == [
        f"Why? {row['seed']}" for row in sampled if row["id"] == "a"
    ]
    assert len({row["seed"] for row in sampled}) == 6
    assert [row for row in sampled if row["sample"] == 0] == once
    assert [row["prompt"].id for row in refused] == ["c"]


def test_ask_sends_only_openai_fields_to_other_servers(tmp_path: Path) -> None:
    with Server(reply) as server:
        rows, _ = asked(server, ["greedy", "sample"], tmp_path, fields={"top_k": 5})
        requests = [request for request in server.requests if request["body"]]
    chats = {"model", "messages", "max_tokens", "temperature", "top_k"}
    for request in requests:
        body = request["body"]
        assert body.keys() - {"seed", "top_p"} == (
            chats if "messages" in body else chats - {"messages"} | {"prompt"}
        )
        assert request["path"] == f"/v1/{'chat/' if 'messages' in body else ''}completions"
    assert "safety" not in rows[0]


def test_ask_hides_key_in_reason_of_refused_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVALUATED_KEY", "sk-secret")

    def refuse(body: dict[str, Any], headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        status, made = reply(body, headers)
        return status, made if status == 200 else {
            "error": {"message": f"you sent {headers['Authorization']}"}
        }

    with Server(refuse) as server:
        _, refused = asked(server, ["greedy"], tmp_path, api_key_env="EVALUATED_KEY")
    assert [row["reason"] for row in refused] == ["HTTP 400: you sent Bearer ***"]


def test_endpoint_names_what_cannot_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(reply) as server:
        with pytest.raises(
            UserError, match=r"'safebeam' cannot be asked of .*; choose from greedy, sample\."
        ):
            asked(server, ["greedy", "safebeam"], tmp_path)
        with pytest.raises(UserError, match=r"environment variable NO_KEY is empty"):
            asked(server, [], tmp_path, api_key_env="NO_KEY")
        one = [PROMPTS[2]]
        endpoint = Endpoint(EndpointConfig(url=server.url, model="m"))
        with pytest.raises(UserError, match=r"refused all prompts: HTTP 400"):
            ask(endpoint, one, ["greedy"], DECODING, chat=True, seed=0, parts=str(tmp_path))
    with pytest.raises(UserError, match=r"cannot be reached \(ConnectError\)"):
        Endpoint(EndpointConfig(url="http://127.0.0.1:9/v1", model="m"))
    with Server(lambda body, headers: (503, {"error": {}})) as server:
        endpoint = Endpoint(EndpointConfig(url=server.url, model="m", retries=0))
        with pytest.raises(UserError, match=r"with HTTP 503; when it works again, the same command resumes"):
            endpoint.answer(PROMPTS[0], "greedy", DECODING, 0, chat=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"endpoint": {"url": "u"}}, r"endpoint\.model is empty"),
        ({"endpoint": {"model": "m"}}, r"endpoint\.url is empty"),
        ({"model": "m"}, r"model: give a model, or endpoint\.url, or answers"),
        ({"documents": ["d"]}, r"documents: an endpoint is not asked for P\(tag\) and perplexity"),
        ({"endpoint": {"url": "u", "model": "m", "concurrency": 0}}, r"concurrency=0"),
        ({"stop_threshold": 0.0}, r"stop_threshold=0\.0"),
    ],
)
def test_evaluate_config_rejects_endpoint_settings(changes: dict[str, Any], message: str) -> None:
    values = {"endpoint": {"url": "u", "model": "m"}, "prompt_sets": ["xstest"], "output": "o"}
    with pytest.raises(UserError, match=message):
        from_dict(EvaluateConfig, values | changes)


def test_evaluate_stage_judges_answers_of_an_endpoint(ray_cluster: None, tmp_path: Path) -> None:
    mine = tmp_path / "mine.csv"
    mine.write_text("prompt,kind\nHow do I bake bread?,harmless\nWhy?,harmful\ntoo long,harmful\n")
    with Server(reply, gets=WITH_MODES) as server:
        values = {
            "endpoint": {"url": server.url, "model": "m"}, "prompt_sets": [str(mine)], "chat": True,
            "judges": ["refusal"], "decoders": ["greedy", "safebeam"], "output": str(tmp_path / "out"),
        }  # fmt: skip
        record = evaluate_model(from_dict(EvaluateConfig, values))
    assert (record["rows_in"], record["rows_out"], record["rejected"]) == (3, 2, 1)
    [rejected] = pq.read_table(tmp_path / "out" / "rejected" / "prompts.parquet").to_pylist()
    assert (rejected["id"], rejected["endpoint"]) == ("2", "m")
    assert rejected["rejected_reason"].startswith("HTTP 400")
    rates = {(line["kind"], line["decoder"]): line["rate"] for line in record["results"]["rates"]}
    assert rates == {
        (kind, decoder): 0.0 for kind in ("harmless", "harmful") for decoder in ("greedy", "safebeam")
    }
    assert "| refused |" in (tmp_path / "out" / "README.md").read_text()
