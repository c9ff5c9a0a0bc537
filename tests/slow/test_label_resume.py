"""Resume labelling after the endpoint fails in the second pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from broken_run import broken_run
from endpoint import Endpoint, completion

from jobs.label import LabelConfig, label_documents
from safety_ray.core import dataset
from safety_ray.core.config import from_dict
from safety_ray.judge.rubric import RETRY_PROMPT

pytestmark = pytest.mark.covers("jobs.label", "safety_ray.judge", "safety_ray.core.dataset")


def judge(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Answer in prose to a document that contains SECOND, until the prompt is the second pass's."""
    system, user = (message["content"] for message in body["messages"])
    if "SECOND" in user and RETRY_PROMPT not in system:
        return 200, completion("I would say about three.")
    return 200, completion(json.dumps({"score": 0, "reason": "because of its words"}))


def test_label_stage_resumes_retry_pass_after_failure(tmp_path: Path, ray_cluster: None) -> None:
    rows = [{"id": f"d{i}", "text": f"Text {i}." if i % 4 else f"SECOND {i}."} for i in range(20)]
    dataset.write_table(pa.Table.from_pylist(rows), str(tmp_path / "documents" / "a.parquet"))
    broken, answered = [True], []

    def answer(body: dict[str, Any], headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        reminded = RETRY_PROMPT in body["messages"][0]["content"]
        if broken[0] and reminded:  # in the second pass no request can succeed any more
            return 401, {"error": {"message": "no"}}
        answered.append((body["messages"][1]["content"], reminded))
        return judge(body)

    with Endpoint(answer) as endpoint:
        config = from_dict(
            LabelConfig,
            {
                "documents": str(tmp_path / "documents"), "output": str(tmp_path / "out"),
                "engine": {"kind": "openai", "model": "m", "base_url": endpoint.url, "api_key_env": ""},
            },
        )  # fmt: skip
        broken_run(lambda: label_documents(config), "refuses the key")
        broken[0] = False
        record = label_documents(config)
    assert (record["rows_in"], record["rows_out"], record["rejected"]) == (20, 20, 0)
    # No row of the first pass is requested again. (In the second pass, a dying actor of the interrupted run
    # may still send a request when the endpoint already answers.)
    assert sum(not reminded for _, reminded in answered) == 20
    assert len(set(answered)) == 25
    assert dataset.table(str(tmp_path / "out")).num_rows == 20
