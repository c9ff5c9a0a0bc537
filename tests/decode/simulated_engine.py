"""vLLM's real scheduler with a worker whose KV cache holds the tokens themselves.

The worker computes what a model would: the next token's probabilities are a function of the tokens that it
reads through the block table. A wrong, missing or overwritten block therefore changes the result.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import LlamaConfig
from vllm.config import CacheConfig, ModelConfig, SchedulerConfig, VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.kv_cache_interface import (
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    SlidingWindowSpec,
)
from vllm.v1.outputs import LogprobsLists, ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

from safety_ray.decode.vllm_scheduler import SearchScheduler

BLOCK, VOCABULARY, LENGTH, EMPTY = 4, 12, 64, -1
SHA = get_hash_fn_by_name("sha256")


def log_probs(tokens: list[int]) -> np.ndarray[Any, Any]:
    """Return log P(next token | tokens), float32."""
    rng = random.Random(str(tokens))
    weights = np.array([rng.expovariate(1.0) for _ in range(VOCABULARY)])
    return np.log(weights / weights.sum()).astype(np.float32)


def vllm_config(folder: Path, **scheduler: Any) -> VllmConfig:
    LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=LENGTH,
        architectures=["LlamaForCausalLM"],
    ).save_pretrained(folder)
    model = ModelConfig(str(folder), skip_tokenizer_init=True, dtype="float32", max_model_len=LENGTH)
    settings = {"max_num_seqs": 64, "max_num_batched_tokens": 256} | scheduler
    return VllmConfig(
        model_config=model,
        cache_config=CacheConfig(block_size=BLOCK, enable_prefix_caching=True),
        scheduler_config=SchedulerConfig(max_model_len=LENGTH, is_encoder_decoder=False, **settings),
    )


class SimulatedEngine:
    """An engine core with `depth` batches in flight, on a CPU or with asynchronous scheduling as on a GPU.

    The model has a group of layers per element of `windows`, the size of its sliding window or None for full
    attention. Its probabilities are a function of all tokens that at least one group attends to.
    """

    def __init__(
        self,
        config: VllmConfig,
        num_blocks: int = 200,
        depth: int = 1,
        asynchronous: bool = False,
        windows: Sequence[int | None] = (None,),
    ) -> None:
        config.cache_config.num_gpu_blocks = num_blocks
        config.scheduler_config.async_scheduling = asynchronous
        config.parallel_config.distributed_executor_backend = "mp" if depth == 2 else "uni"
        layer: dict[str, Any] = {"block_size": BLOCK, "num_kv_heads": 1, "head_size": 64}
        layer["dtype"] = config.model_config.dtype
        groups = [
            KVCacheGroupSpec(
                [f"layer {i}"],
                SlidingWindowSpec(**layer, sliding_window=window) if window else FullAttentionSpec(**layer),
            )
            for i, window in enumerate(windows)
        ]
        self.windows = [window or LENGTH for window in windows]
        self.scheduler = SearchScheduler(
            vllm_config=config,
            kv_cache_config=KVCacheConfig(num_blocks, [], groups),
            structured_output_manager=StructuredOutputManager(config),
            block_size=BLOCK,
            hash_block_size=BLOCK,
        )
        init_none_hash(SHA)
        self.hasher = get_request_block_hasher(BLOCK, SHA)
        self.kv = np.full((num_blocks, BLOCK), EMPTY)
        self.tokens: dict[str, list[int]] = {}
        self.blocks: dict[str, list[list[int]]] = {}  # of each group
        self.params: dict[str, SamplingParams] = {}
        self.computed: dict[str, int] = {}  # tokens by request
        self.most_batches, self.depth, self.in_flight = 0, depth, deque[tuple[Any, Any]]()
        self.received: dict[str, list[Any]] = {}  # outputs by request
        self.tag = self.sleeps = 0
        self.free_at_start = self.num_free()

    def num_free(self) -> int:
        return int(self.scheduler.kv_cache_manager.block_pool.get_num_free_blocks())

    def add(self, name: str, prompt: list[int], params: SamplingParams) -> None:
        request = Request(name, prompt, params, None, block_hasher=self.hasher)
        self.received[name] = []
        self.scheduler.add_request(request)

    def abort(self, *names: str) -> None:
        self.scheduler.finish_requests(names, RequestStatus.FINISHED_ABORTED)

    def step(self) -> None:
        """Run a batch, and process the oldest output if the queue is full or nothing was scheduled.

        After a step without a batch, vLLM's engine core sleeps if there are requests.
        """
        executed = False
        if self.scheduler.has_requests():
            output = self.scheduler.schedule()
            self.in_flight.appendleft((output, self._execute(output)))
            busy = sum(bool(output.total_num_scheduled_tokens) for output, _ in self.in_flight)
            self.most_batches = max(self.most_batches, busy)
            executed = output.total_num_scheduled_tokens > 0
            if len(self.in_flight) < self.depth and output.total_num_scheduled_tokens:
                return
        if self.in_flight:
            for batch in self.scheduler.update_from_output(*self.in_flight.pop()).values():
                for item in batch.outputs:
                    self.received[item.request_id].append(item)
        self.sleeps += not executed and self.scheduler.has_requests()

    def run(self, steps: int | None = None) -> None:
        """Run this number of steps, or until nothing is left."""
        for _ in range(10_000 if steps is None else steps):
            if not (self.scheduler.has_requests() or self.in_flight):
                return
            self.step()
        assert steps is not None, "the engine makes no progress"

    def table(self, name: str) -> LogprobsLists:
        """Return the log-probabilities that a request has received."""
        tables = [item.new_logprobs for item in self.received[name] if item.new_logprobs]
        return LogprobsLists(*(np.concatenate([t[i] for t in tables]) for i in range(3)))

    def sampled(self, name: str) -> list[int]:
        return [token for item in self.received[name] for token in item.new_token_ids]

    def _execute(self, output: Any) -> ModelRunnerOutput:
        for name in output.finished_req_ids:
            for entries in (self.tokens, self.blocks, self.params):
                entries.pop(name, None)
        copies = output.kv_cache_block_copies or []
        for target, content in [(target, self.kv[source].copy()) for source, target in copies]:
            self.kv[target] = content
        computed = {}
        for new in output.scheduled_new_reqs:
            self.tokens[new.req_id] = list(new.prompt_token_ids)
            self.blocks[new.req_id] = [list(ids) for ids in new.block_ids]
            self.params[new.req_id] = new.sampling_params
            computed[new.req_id] = new.num_computed_tokens
        cached = output.scheduled_cached_reqs
        for i, name in enumerate(cached.req_ids):
            added = [list(ids) for ids in cached.new_block_ids[i] or [[]] * len(self.windows)]
            resumed = name in cached.resumed_req_ids
            kept = [[]] * len(self.windows) if resumed else self.blocks[name]
            self.blocks[name] = [old + new for old, new in zip(kept, added, strict=True)]
            if resumed:
                self.tokens[name] = list(cached.all_token_ids[name])
            computed[name] = cached.num_computed_tokens[i]
        names = list(output.num_scheduled_tokens)
        for name in names:  # a model writes all keys and values of a batch before it reads them
            start, number = computed[name], output.num_scheduled_tokens[name]
            self.computed[name] = self.computed.get(name, 0) + number
            for blocks in self.blocks[name]:
                for position in range(start, start + number):
                    self.kv[blocks[position // BLOCK], position % BLOCK] = self.tokens[name][position]
        width = 3 + max((self.params[name].logprobs or 0 for name in names), default=0)
        sampled, ids, values = [], [], []
        for name in names:
            end = computed[name] + output.num_scheduled_tokens[name]
            for blocks, window in zip(self.blocks[name], self.windows, strict=True):
                positions = range(max(end - window, 0), end)
                read = [int(self.kv[blocks[p // BLOCK], p % BLOCK]) for p in positions]
                assert read == self.tokens[name][positions.start : end], f"{name}: other tokens in the blocks"
            row = log_probs(self.tokens[name][max(end - max(self.windows), 0) : end])
            bias = self.params[name].logit_bias or {}
            token = max(range(VOCABULARY), key=lambda t: row[t] + bias.get(t, 0))
            order = np.argsort(-row, kind="stable")[: width - 2]
            ids.append([token, *order, self.tag])  # as safety_ray.compat.vllm_sampler appends it
            values.append([row[token], *row[order], row[self.tag]])
            complete = end == len(self.tokens[name])
            sampled.append([token] if complete else [])
            if complete:
                self.tokens[name].append(token)
        table = LogprobsLists(
            np.array(ids, np.int32).reshape(len(names), width),
            np.array(values, np.float32).reshape(len(names), width),
            np.zeros(len(names), np.int32),
        )
        return ModelRunnerOutput(names, {n: i for i, n in enumerate(names)}, sampled, table)
