"""What the rewriting job's engines cost over the bare ones: tokens a second, the prefix cache, acceptance.

    python -m benchmarks.rewrite classifier=runs/demo/fit

Prompts are the recipes' own about the seeds of the shipped corpus. `vllm` is the job's stream (prompts, Ray
Data, parsing, writing) against `vllm.LLM.chat` with the same prompts, model and engine arguments; `openai` is
the same stream against a bare asyncio client with as many requests open, both asking one vLLM server. A
stream is timed from when its engine took the first row to when its last row was on disk, so that no engine's
start counts. Ways take turns and the median of the rounds counts. Seconds of CPU are those of this process
and all below it: they are a fair figure where others use the machine, too. Model: a Llama of random weights,
whose replies have `new_tokens` tokens each.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pyarrow as pa

from safety_ray import dataset
from safety_ray.artifact import Artifact
from safety_ray.config import from_dict, setting
from safety_ray.corpus.seeds import load_seeds
from safety_ray.engine import SECONDS, USAGE
from safety_ray.errors import UserError
from safety_ray.job import main
from safety_ray.rewrite import acceptance, tasks
from safety_ray.rewrite.passes import draft
from safety_ray.rewrite.settings import RewriteConfig

PARTS = ("vllm", "openai", "acceptance")


@dataclass(frozen=True, kw_only=True, slots=True)
class RewriteBenchmark:
    """Measures the engines of rewriting."""

    parts: list[str] = setting("what to measure", factory=lambda: list(PARTS))
    classifier: str = setting("folder of a finished fit, for acceptance", default="")
    prompts: int = setting("documents", default=96)
    new_tokens: int = setting("tokens of each reply", default=64)
    seqs: int = setting("replies made at once", default=16)
    hidden: int = setting("width of the model: 512 gives 30M parameters", default=512)
    rounds: int = setting("times that each way is measured", default=3)

    def __post_init__(self) -> None:
        if unknown := [part for part in self.parts if part not in PARTS]:
            raise UserError(f"unknown parts {unknown}: use some of {', '.join(PARTS)}.")
        if "acceptance" in self.parts and not self.classifier:
            raise UserError(
                "classifier: give the folder of a finished fit, or leave acceptance out of parts."
            )
        if min(self.prompts, self.new_tokens, self.seqs, self.rounds) < 1:
            raise UserError("prompts, new_tokens, seqs and rounds must be positive.")


@dataclass(frozen=True, slots=True)
class Took:
    """One round of one way."""

    tokens: int
    seconds: float
    cpu: float
    cached: float | None = None  # share of the prompts' tokens that came from the prefix cache


class Clock(threading.Thread):
    """CPU seconds of this process and all below it, looked at ten times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.at: list[float] = [time.time()]
        self.used: list[float] = [0.0]
        self.known: dict[int, float] = {}
        self.start()

    def run(self) -> None:
        while True:
            for process in (me := psutil.Process(), *me.children(recursive=True)):
                try:
                    times = process.cpu_times()
                    self.known[process.pid] = times.user + times.system
                except psutil.Error:
                    continue
            self.used.append(sum(self.known.values()))
            self.at.append(time.time())
            time.sleep(0.1)

    def between(self, start: float, end: float) -> float:
        time.sleep(0.3)
        first, last = (min(bisect_left(self.at, t), len(self.at) - 1) for t in (start, end))
        return self.used[last] - self.used[first]


def run(config: RewriteBenchmark) -> dict[str, Any]:
    for name, value in {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}.items():
        os.environ.setdefault(name, value)
    rows = _documents(config)
    clock = Clock()
    print(
        "| way | tokens/s | tokens per CPU second | of the bare one | by CPU time | prompts from the cache |"
    )
    print("|---|---|---|---|---|---|")
    speeds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = _model(f"{folder}/model", config.hidden)
        dataset.write_table(rows, f"{folder}/in/a.parquet")
        dataset.start()
        notes = []
        if "vllm" in config.parts:
            with _bare_engine(model, config) as bare:
                ways = {
                    "bare `vllm.LLM.chat`": lambda: bare(_asked(rows, config), clock),
                    "job, engine `vllm`": lambda: _stream(folder, config, clock, _vllm(model, config)),
                }
                speeds |= _table(ways, config.rounds)
        if "openai" in config.parts:
            with _server(model, config) as url:
                ways = {
                    "bare asyncio client": lambda: asyncio.run(
                        _client(url, _asked(rows, config), config, clock)
                    ),
                    "job, engine `openai`": lambda: _stream(folder, config, clock, _openai(url, config)),
                }
                speeds |= _table(ways, config.rounds)
        if "acceptance" in config.parts:
            notes.append(_acceptance(config, rows, speeds))
    print("\n" + "\n".join(notes))
    return {}


def _table(ways: dict[str, Callable[[], Took]], rounds: int) -> dict[str, float]:
    """Measures `ways` in turns and prints a line for each; tokens a second of each."""
    next(iter(ways.values()))()  # warm up what stays up: the bare engine or the server
    found: dict[str, list[Took]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append(way())
    speeds = {n: statistics.median(t.tokens / t.seconds for t in took) for n, took in found.items()}
    per_cpu = {n: statistics.median(t.tokens / t.cpu for t in took) for n, took in found.items()}
    first = next(iter(ways))
    for name in ways:
        shares = f"{speeds[name] / speeds[first]:.2f} | {per_cpu[name] / per_cpu[first]:.2f}"
        against = shares if name != first else " | "
        cached = found[name][-1].cached
        share = "" if cached is None else f"{cached:.0%}"
        print(f"| {name} | {speeds[name]:,.0f} | {per_cpu[name]:,.0f} | {against} | {share} |", flush=True)
    return speeds


def _documents(config: RewriteBenchmark) -> pa.Table:
    seeds = load_seeds()[: config.prompts]
    return pa.table(
        {
            "id": [f"b{n}" for n in range(len(seeds))],
            "text": [seed.text for seed in seeds],
            "score": pa.array([2 + n % 3 for n in range(len(seeds))], pa.int8()),
        }
    )


def _tasks(rows: pa.Table, config: RewriteConfig) -> pa.Table:
    return tasks.from_documents(rows, config.recipe_of(), config.draws())


def _asked(rows: pa.Table, config: RewriteBenchmark) -> list[list[dict[str, str]]]:
    made: list[list[dict[str, str]]] = _tasks(rows, _config({})).column("messages").to_pylist()
    return made


def _config(engine: dict[str, Any]) -> RewriteConfig:
    needed = {"scored": "-", "classifier": "-", "output": "-", "write_rows": 32}
    return from_dict(RewriteConfig, needed | {"engine": engine})


def _model(folder: str, hidden: int) -> str:
    """A Llama of random weights with a byte-level BPE of the corpus and a chat template."""
    from tests.tiny_writer import model, tokenizer

    vocabulary = tokenizer([seed.text for seed in load_seeds()], words=8192)
    made = model(
        vocabulary, hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=8,
        num_attention_heads=8, num_key_value_heads=4,
    )  # fmt: skip
    vocabulary.save_pretrained(folder)
    made.save_pretrained(folder)
    size = sum(p.numel() for p in made.parameters()) / 1e6
    print(f"model: {size:.0f}M parameters, {os.cpu_count()} CPU cores\n")
    return folder


def _arguments(config: RewriteBenchmark) -> dict[str, Any]:
    return {
        "max_model_len": 2048, "max_num_seqs": config.seqs, "dtype": "bfloat16", "enforce_eager": True,
        "block_size": 32, "enable_chunked_prefill": False,
    }  # fmt: skip


def _sampling(config: RewriteBenchmark) -> dict[str, Any]:
    return {"max_tokens": config.new_tokens, "temperature": 0.7, "top_p": 0.95}


def _vllm(model: str, config: RewriteBenchmark) -> dict[str, Any]:
    return {"kind": "vllm", "model": model, **_sampling(config), "engine_args": _arguments(config)}


def _openai(url: str, config: RewriteBenchmark) -> dict[str, Any]:
    return {
        "kind": "openai", "model": "m", "base_url": url, "api_key_env": "", **_sampling(config),
        "concurrency": config.seqs,
    }  # fmt: skip


class _Bare:
    """vLLM without anything around it."""

    def __init__(self, model: str, config: RewriteBenchmark) -> None:
        from vllm import LLM, SamplingParams

        self.llm = LLM(model=model, **_arguments(config))
        self.params = [SamplingParams(**_sampling(config), seed=n) for n in range(config.prompts)]

    def __call__(self, chats: list[list[dict[str, str]]], clock: Clock) -> Took:
        self.llm.reset_prefix_cache()
        start = time.time()
        found = self.llm.chat(chats, self.params[: len(chats)], use_tqdm=False)
        end = time.time()
        asked = sum(len(one.prompt_token_ids) for one in found)
        cached = sum(one.num_cached_tokens or 0 for one in found)
        tokens = sum(len(one.outputs[0].token_ids) for one in found)
        return Took(tokens, end - start, clock.between(start, end), cached / asked)


@contextmanager
def _bare_engine(model: str, config: RewriteBenchmark) -> Iterator[_Bare]:
    bare = _Bare(model, config)
    try:
        yield bare
    finally:
        bare.llm.llm_engine.engine_core.shutdown()


def _stream(folder: str, config: RewriteBenchmark, clock: Clock, engine: dict[str, Any]) -> Took:
    """The first pass of the job: prompts, engine, parsing and writing."""
    job = _config(engine)
    todo = dataset.read(f"{folder}/in", ()).map_batches(
        _tasks, fn_kwargs={"config": job}, batch_format="pyarrow"
    )
    drafts = draft(todo, job, 1).map_batches(_stamped, batch_format="pyarrow")
    out = Artifact(tempfile.mkdtemp(dir=folder), {}, {})
    dataset.write(drafts, out, label="drafts", total=config.prompts, write_rows=job.write_rows)
    rows = dataset.table(f"{out.path}/data", ["stamp", SECONDS, *USAGE]).to_pylist()
    start = min(row["stamp"] - row[SECONDS] for row in rows)
    end = max(file.stat().st_mtime for file in Path(out.path, "data").rglob("*.parquet"))
    prompt, reply, cached = (sum(row[name] or 0 for row in rows) for name in USAGE)
    share = cached / prompt if engine["kind"] == "vllm" else None
    return Took(reply, end - start, clock.between(start, end), share)


def _stamped(batch: pa.Table) -> pa.Table:
    return batch.append_column("stamp", pa.array([time.time()] * len(batch)))


@contextmanager
def _server(model: str, config: RewriteBenchmark) -> Iterator[str]:
    from serve.ask import free_port

    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    command += ["--served-model-name", "m", "--host", "127.0.0.1", "--port", str(port), "--disable-log-stats"]
    for name, value in _arguments(config).items():
        flag = name.replace("_", "-")
        command += {True: [f"--{flag}"], False: [f"--no-{flag}"]}.get(value, [f"--{flag}", str(value)])
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        while server.poll() is None:
            try:
                if httpx.get(f"{url}/health").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.5)
        else:
            raise RuntimeError(f"the vLLM server ended with {server.returncode}")
        yield f"{url}/v1"
    finally:
        server.terminate()
        server.wait()


async def _client(
    url: str, chats: list[list[dict[str, str]]], config: RewriteBenchmark, clock: Clock
) -> Took:
    room, start = asyncio.Semaphore(config.seqs), time.time()
    async with httpx.AsyncClient(timeout=600) as client:

        async def ask(seed: int, messages: list[dict[str, str]]) -> int:
            body = {"model": "m", "messages": messages, "seed": seed, **_sampling(config)}
            async with room:
                answer = await client.post(f"{url}/chat/completions", json=body)
            return int(answer.json()["usage"]["completion_tokens"])

        tokens = sum(await asyncio.gather(*(ask(n, messages) for n, messages in enumerate(chats))))
    end = time.time()
    return Took(tokens, end - start, clock.between(start, end))


def _acceptance(config: RewriteBenchmark, rows: pa.Table, speeds: dict[str, float]) -> str:
    """CPU time of scoring, comparing and judging drafts: each document is the draft of the one before it."""
    from safety_ray.rewrite.compare import ScoreAndCompare

    asked = _tasks(rows, _config({}))
    texts = rows.column("text").to_pylist()
    drafts = asked.append_column("text", pa.array(texts[-1:] + texts[:-1]))
    drafts = drafts.append_column("problem", pa.nulls(len(drafts), pa.string()))
    actor = ScoreAndCompare(config.classifier, 4096, "cpu")
    spent = []
    for turn in range(config.rounds + 1):
        start = time.process_time()
        for row in actor(drafts).to_pylist():
            acceptance.verdict(row, acceptance.Bounds())
        spent += [time.process_time() - start] if turn else []  # the first one warms up
    words = sum(len(text.split()) for text in texts)
    each = statistics.median(spent) / words
    told = f"acceptance: {1000 * each:.2f} ms of one core for each word of a draft"
    if name := next((n for n in speeds if "vllm`" in n and n.startswith("job")), None):
        told += f", {each * speeds[name]:.0%} of the time in which `vllm` makes a token here"
    return told + f"; below 5 % on one core where the engine makes up to {0.05 / each:,.0f} tokens/s"


if __name__ == "__main__":
    main(RewriteBenchmark, run)
