"""vLLM's offline engine and vLLM's own server in bfloat16 on a processor with AMX.

Ray Data's engine and the endpoint are covered by tests/test_engine_vllm.py and tests/serve.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from known_model import log_table, small_tokenizer, write_model
from openai import OpenAI

from benchmarks.vllm_server import vllm_server
from safety_ray.compat.amx import amx_supported

pytestmark = [
    pytest.mark.covers("safety_ray.compat.amx", "benchmarks.vllm_server"),
    pytest.mark.skipif(not amx_supported(), reason="this processor has no AMX"),
]
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "TORCH_COMPILE_DISABLE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
FLAGS = ["--dtype", "bfloat16", "--enforce-eager", "--max-model-len", "64", "--max-num-seqs", "4"]
OFFLINE = """
import sys
from vllm import LLM, SamplingParams

if __name__ == "__main__":
    llm = LLM(sys.argv[1], dtype="bfloat16", enforce_eager=True, max_model_len=64, max_num_seqs=4)
    [found] = llm.generate(["abc"], SamplingParams(max_tokens=2, temperature=0), use_tqdm=False)
    print("said", found.outputs[0].text)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = small_tokenizer(split_special_tokens=False)
    return write_model(tmp_path_factory.mktemp("model"), tokenizer, log_table(tokenizer))


def test_vllm_llm_generates_in_bfloat16_on_amx(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    script = tmp_path / "offline.py"
    script.write_text(OFFLINE)
    done = subprocess.run([sys.executable, script, model], capture_output=True, text=True)
    assert "said de\n" in done.stdout, done.stdout + done.stderr


def test_vllm_server_generates_in_bfloat16_on_amx(model: Path) -> None:
    with (
        vllm_server(str(model), "known", FLAGS, ENVIRONMENT) as url,
        OpenAI(base_url=url, api_key="x") as client,
    ):
        answer = client.completions.create(model="known", prompt="abc", max_tokens=2, temperature=0)
        assert answer.choices[0].text == "de"
