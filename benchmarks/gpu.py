"""Measure one GPU: training, Safe Beam Search and scoring, with random weights, in a given time.

    python -m benchmarks.gpu minutes=12 out=gpu.json         # on a machine with a GPU; needs no network
    python -m benchmarks.gpu device=cpu tiny=true            # the same code in under a minute

It runs from a copy of the repository and needs torch, transformers and their requirements only. The file
`out` is written after every case, so that a run that is interrupted counts. A case that fails has an `error`;
one for which no time is left is missing.
"""

from __future__ import annotations

import gc
import json
import runpy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers

from benchmarks.gpu_models import ENCODERS, SHAPES, batch_of, encoder_folder, texts_of, tokenizer_of
from safety_ray.classifier.encoder import Encoder
from safety_ray.core.device import cast_parameters
from safety_ray.decode.hf import safe_beam_search_batch
from safety_ray.train import float8
from safety_ray.train.meter import peak_of
from safety_ray.train.model import build
from safety_ray.train.optim import adamw
from safety_ray.train.parallel import compile_blocks, shard
from safety_ray.train.settings import ModelConfig, PretrainConfig
from safety_ray.train.step import backward, read, update

TESTS = Path(__file__).parents[1] / "tests" / "gpu" / "test_gpu_numerics.py"
WAYS: dict[str, dict[str, Any]] = {  # settings of the model, and whether blocks are compiled or use float8
    "eager": {},
    "compiled": {"compile": True},
    "compiled, loss too": {"compile": True, "compile_loss": True},
    "compiled, loss too, fp8": {"compile": True, "compile_loss": True, "fp8": True},  # needs torchao
    "compiled, sdpa without cuDNN": {"compile": True, "attention": "sdpa"},
    "documents, dense mask": {"compile": True, "attention": "sdpa", "document_mask": True},
    "documents, block mask": {"compile": True, "attention": "flex_attention", "document_mask": True},
}


@dataclass(slots=True)
class Run:
    """The results so far, the file that they are written to, and the time that is left."""

    out: Path
    device: torch.device
    tiny: bool
    end: float
    results: dict[str, Any] = field(default_factory=dict)

    def measure(self, part: str, case: str, function: Callable[[], dict[str, Any]]) -> None:
        """Call `function` unless the time is over, and write its result or its error."""
        if time.monotonic() > self.end:
            return
        start = time.monotonic()
        try:
            result = function()
        except Exception as error:  # a case must not end the others
            result = {"error": f"{type(error).__name__}: {str(error)[:500]}"}
        result["seconds"] = round(time.monotonic() - start, 1)
        self.results.setdefault(part, {})[case] = result
        print(part, case, json.dumps(result), flush=True)
        self.out.write_text(json.dumps(self.results, indent=1))
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def tests() -> dict[str, Callable[[str], None]]:
    """Return the tests of tests/gpu that need neither pytest nor other packages; they take the device."""
    functions = runpy.run_path(str(TESTS))
    return {name: function for name, function in functions.items() if name.startswith("test_")}


def passes(test: Callable[[str], None], device: str) -> dict[str, Any]:
    """Run a test; it raises AssertionError if it fails."""
    test(device)
    return {"passed": True}


def train(run: Run, shape: str, way: dict[str, Any]) -> dict[str, Any]:
    """Return speed, MFU and memory of training steps, and the attention kernels of one of them.

    With fp8, MFU is still the share of the peak in bf16.
    """
    micro, length, steps = (2, 64, 3) if run.tiny else (8, 2048, 8)
    settings = {key: value for key, value in way.items() if key not in ("compile", "fp8")}
    tokenizer = tokenizer_of(SHAPES[shape]["vocabulary"])
    size = {key: value for key, value in SHAPES[shape].items() if key != "vocabulary"}
    torch.manual_seed(0)
    with run.device:
        model = build(ModelConfig(**size, **settings), tokenizer, context=length, device=run.device.type)
    flops = model.flops_per_token(length)
    if way.get("fp8"):
        float8.convert(model.blocks, emulate=run.device.type == "cpu")
    if way.get("compile"):
        compile_blocks(model.blocks, fp8=way.get("fp8", False))
    shard(model, model.blocks, device=run.device.type, precision="bf16")
    config = PretrainConfig(rows="", output="", workers=1, batch_rows=2 * micro, micro_batch_rows=micro)
    optimizer = adamw(model, config)
    batch = batch_of(2 * micro, length, len(tokenizer), documents=model.document_mask).to(run.device)
    losses: list[float] = []

    def step() -> None:
        sums = backward(model, batch, 0, config, gather_once=True)
        update(optimizer, sums, 1e-4, grad_clip=1.0)
        losses.append(read(sums).loss)

    first = _seconds(step)
    times = [_seconds(step) for _ in range(steps)][2:] if steps > 2 else [first]
    speed = batch.ids.numel() / statistics.median(times)
    peak = peak_of(run.device, "bf16") * 1e12
    return {
        "attention": model.network.config._attn_implementation,
        "tokens_per_second": round(speed),
        "mfu": round(speed * flops / peak, 4) if peak else None,
        "tflops": round(speed * flops / 1e12, 1),
        "first_step_s": round(first, 1),
        "losses": [round(losses[0], 3), round(losses[-1], 3)],
        "kernels": _attention_kernels(step) if run.device.type == "cuda" else [],
        **_memory(run),
    }


def decode(run: Run, shape: str) -> dict[str, Any]:
    """Return milliseconds per token of greedy decoding and of Safe Beam Search, for one and four prompts.

    The search runs with and without a CUDA graph, whose captures count.
    """
    new, prompt = (4, 16) if run.tiny else (32, 512)
    tokenizer = tokenizer_of(SHAPES[shape]["vocabulary"])
    size = {key: value for key, value in SHAPES[shape].items() if key != "vocabulary"}
    with run.device:
        network = build(
            ModelConfig(**size, attention="sdpa"), tokenizer, context=2048, device=run.device.type
        ).network.eval()
    cast_parameters(network, torch.bfloat16)
    ids = torch.randint(2, len(tokenizer), (4, prompt), generator=torch.Generator().manual_seed(0))
    values: dict[str, Any] = {}
    for number in (1, 4):
        prompts = ids[:number]

        def greedy(prompts: torch.Tensor = prompts) -> None:
            network.generate(
                prompts.to(run.device), attention_mask=torch.ones_like(prompts).to(run.device),
                do_sample=False, max_new_tokens=new, min_new_tokens=new,
            )  # fmt: skip

        def search(prompts: torch.Tensor = prompts, cuda_graph: bool = False) -> None:
            safe_beam_search_batch(
                network, prompts.tolist(), tag_id=0, eos_id=None, max_new_tokens=new, cuda_graph=cuda_graph
            )

        graph = "safe_beam_search_graph"
        ways = (("greedy", greedy), ("safe_beam_search", search), (graph, partial(search, cuda_graph=True)))
        for name, function in ways:
            function()
            milliseconds = statistics.median(_seconds(function) for _ in range(3)) / new / number * 1e3
            values[f"{name}_{number}_ms_per_token"] = round(milliseconds, 3)
        for name in ("safe_beam_search", graph):
            ratio = values[f"{name}_{number}_ms_per_token"] / values[f"greedy_{number}_ms_per_token"]
            values[f"{name}_{number}_times_greedy"] = round(ratio, 2)
    return {**values, **_memory(run)}


def score(run: Run, name: str) -> dict[str, Any]:
    """Return texts and tokens per second of an encoder, with one and with two threads that call it."""
    from concurrent.futures import ThreadPoolExecutor

    calls, rows = (3, 8) if run.tiny else (12, 512)
    with tempfile.TemporaryDirectory() as folder:
        encoder_folder(Path(folder), name)
        encoder = Encoder(folder, ENCODERS[name]["max_tokens"], str(run.device))
    texts = [texts_of(rows, seed, words=60 if run.tiny else 400) for seed in range(calls)]
    tokens = sum(len(chunk) for text in texts for chunks in encoder.chunk_ids(text) for chunk in chunks)

    def embed(text: list[str]) -> None:
        encoder.embed([chunk for chunks in encoder.chunk_ids(text) for chunk in chunks])

    def overlapped() -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(embed, texts))

    embed(texts[0])
    ways: dict[str, Callable[[], Any]] = {
        "tokenizer_alone": lambda: [encoder.chunk_ids(text) for text in texts],
        "one_thread": lambda: [embed(text) for text in texts],
        "two_threads": overlapped,
    }
    values = {way: round(tokens / _seconds(function)) for way, function in ways.items()}
    parameters = sum(p.numel() for p in encoder.model.parameters())
    return {"tokens_per_second": values, "tokens_per_text": round(tokens / calls / rows),
            "parameters": parameters, "dtype": str(encoder.dtype), **_memory(run)}  # fmt: skip


def _seconds(function: Callable[[], Any]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _memory(run: Run) -> dict[str, float]:
    if run.device.type != "cuda":
        return {}
    return {"memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2)}


def _attention_kernels(step: Callable[[], None]) -> list[str]:
    """Return the names of the attention kernels that a step has run, with their share of the GPU's time."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        step()
    events = [event for event in profiler.key_averages() if event.self_device_time_total > 0]
    total = sum(event.self_device_time_total for event in events)
    words = ("flash", "fmha", "cudnn_generated", "sdpa", "attention", "flex")
    return [
        f"{event.key[:80]} {event.self_device_time_total / total:.1%}"
        for event in sorted(events, key=lambda event: -event.self_device_time_total)
        if any(word in event.key.lower() for word in words)
    ][:6]


def main(arguments: list[str]) -> None:
    """Run all parts in the order of their importance."""
    default = "cuda" if torch.cuda.is_available() else "cpu"
    values = {"minutes": "12", "out": "gpu.json", "device": default, "tiny": "false"}
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key not in values or not value:
            raise SystemExit(
                f"'{argument}' is not a setting; give minutes, out, device or tiny as key=value."
            )
        values[key] = value
    device = torch.device(values["device"])
    tiny = values["tiny"] == "true"
    run = Run(Path(values["out"]), device, tiny, time.monotonic() + float(values["minutes"]) * 60)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "device": name}
    run.measure("machine", name, lambda: versions)
    if tiny:
        torch.compiler.set_stance("force_eager")  # compilation takes minutes
    sizes = ["tiny"] if tiny else ["360M", "1.7B"]
    for test, function in tests().items():
        run.measure("tests", test, partial(passes, function, values["device"]))
    with tempfile.TemporaryDirectory() as folder:
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=0, world_size=1)
        for way in ("compiled", "compiled, loss too"):
            for shape in sizes:
                run.measure("train", f"{shape}, {way}", partial(train, run, shape, WAYS[way]))
        for encoder in ["tiny"] if tiny else ["22M", "137M"]:
            run.measure("score", encoder, partial(score, run, encoder))
        for shape in sizes:
            run.measure("decode", shape, partial(decode, run, shape))
        for way in list(WAYS):
            for shape in sizes:
                if f"{shape}, {way}" not in run.results.get("train", {}):
                    run.measure("train", f"{shape}, {way}", partial(train, run, shape, WAYS[way]))
        dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1:])
