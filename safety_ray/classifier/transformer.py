"""A transformers model for texts of any length: split into chunks, run in batches of similar length."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from safety_ray.core.batching import batches_by_length
from safety_ray.core.device import fast_bf16
from safety_ray.core.errors import UserError

_CPU_TOKENS, _GPU_TOKENS = 2048, 16384
_SHORT = 512  # up to this chunk length, eager bf16 attention is faster on a CPU than torch's fused one


class Transformer:
    """A model and its tokenizer on a device, from a folder or a hub id.

    `kind` is the transformers class that loads the model. `max_tokens` is the length of a chunk, special
    tokens included. `exact` uses fp32 even if bfloat16 is faster. Raises UserError if `name` cannot be
    loaded, lacks weights, has code of its own without `trust_remote_code`, or does not take `max_tokens`.
    """

    def __init__(
        self,
        kind: Any,
        name: str,
        max_tokens: int,
        device: str | None = None,
        *,
        trust_remote_code: bool = False,
        exact: bool = False,
    ) -> None:
        disable_progress_bar()  # small models load in a tenth of a second
        settings = load_config(name, trust_remote_code)
        check_max_tokens(settings, name, max_tokens)
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = torch.bfloat16 if fast_bf16(self.device) and not exact else torch.float32
        # Cast while loading: `model.to(dtype)` would also cast the frequencies of rotary embeddings.
        options: dict[str, Any] = {"dtype": self.dtype}
        if self.device == "cpu" and self.dtype == torch.bfloat16 and max_tokens <= _SHORT:
            options["attn_implementation"] = "eager"
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
            model, info = kind.from_pretrained(
                name,
                trust_remote_code=trust_remote_code,
                use_safetensors=True,
                output_loading_info=True,
                **options,
            )
        except (OSError, ValueError, ImportError, SafetensorError) as error:
            raise UserError(f"'{name}' cannot be loaded: {_first_line(error)}.") from error
        # transformers initializes missing weights at random; the output of a pooler is not used.
        missing = sorted(key for key in info["missing_keys"] if "pooler" not in key)
        if missing:
            raise UserError(f"'{name}' lacks {len(missing)} of the model's weights, {missing[0]} among them.")
        if not self.tokenizer.is_fast:
            raise UserError(
                f"'{name}' has no fast tokenizer (tokenizer.json), which is needed to split texts."
            )
        self.name, self.max_tokens, self.trust_remote_code = name, max_tokens, trust_remote_code
        self.model: Any = model.to(self.device).eval()
        self.backend = self.tokenizer.backend_tokenizer
        self.backend.no_truncation()
        self.backend.no_padding()
        self.prefix, self.suffix = _special_tokens(self.backend)
        self.body = max_tokens - len(self.prefix) - len(self.suffix)
        self._lock = threading.Lock()

    def chunk_ids(self, texts: list[str]) -> list[list[list[int]]]:
        """Return the token ids of each text, split into chunks of `max_tokens`, special tokens included."""
        encodings = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        return [self._cut(encoding.ids) for encoding in encodings]

    def split(self, texts: list[str]) -> tuple[list[list[list[int]]], list[list[int]]]:
        """Return `chunk_ids` and, for each text, the numbers of characters up to the ends of its chunks."""
        encodings = self.backend.encode_batch(texts, add_special_tokens=False)  # with characters: 1/4 slower
        ends = [
            [
                *(encoding.token_to_chars(i - 1)[1] for i in range(self.body, len(encoding), self.body)),
                len(text),
            ]
            for encoding, text in zip(encodings, texts, strict=True)
        ]
        return [self._cut(encoding.ids) for encoding in encodings], ends

    def _cut(self, ids: list[int]) -> list[list[int]]:
        starts = range(0, max(len(ids), 1), self.body)
        return [[*self.prefix, *ids[i : i + self.body], *self.suffix] for i in starts]

    @torch.no_grad()
    def run(
        self,
        forward: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        chunks: list[list[int]],
        batch_tokens: int,
    ) -> torch.Tensor:
        """Return the rows of `forward(ids_BT, mask_BT)` of all chunks, in their order, on the CPU.

        A forward pass has chunks of similar length and at most `batch_tokens` with padding; 0 selects a value
        for the device. A CPU is fastest while the activations fit in its caches. Ids and results are copied
        between CPU and GPU once. Threads may call this method concurrently; the device serves one at a time,
        so that one thread splits texts into chunks while another one waits for a GPU.
        """
        batch_tokens = batch_tokens or (_CPU_TOKENS if self.device == "cpu" else _GPU_TOKENS)
        lengths = [len(chunk) for chunk in chunks]
        batches = batches_by_length(lengths, batch_tokens)
        order = [i for batch in batches for i in batch]
        ids_in_order = chain.from_iterable(chunks[i] for i in order)
        flat = torch.from_numpy(np.fromiter(ids_in_order, np.int64, sum(lengths)))
        sizes = torch.tensor([lengths[i] for i in order])
        if self.device != "cpu":  # a copy from pinned memory does not stop the CPU
            flat, sizes = flat.pin_memory(), sizes.pin_memory()
        with self._lock:
            flat, sizes = (values.to(self.device, non_blocking=True) for values in (flat, sizes))
            results = []
            row = token = 0
            for batch in batches:
                tokens = sum(lengths[i] for i in batch)
                ids = flat[token : token + tokens]
                results.append(forward(*self._padded(ids, sizes[row : row + len(batch)], lengths[batch[0]])))
                row, token = row + len(batch), token + tokens
            outputs = torch.cat(results).cpu()
        out = torch.empty_like(outputs)
        out[order] = outputs
        return out

    def padded(self, chunks: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids_BT and mask_BT of `chunks` on the device."""
        ids = torch.tensor([id for chunk in chunks for id in chunk], device=self.device)
        sizes = torch.tensor([len(chunk) for chunk in chunks], device=self.device)
        return self._padded(ids, sizes, max(map(len, chunks)))

    def _padded(
        self, ids: torch.Tensor, sizes: torch.Tensor, longest: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids_BT and mask_BT of chunks of `sizes` tokens, whose `ids` follow each other."""
        columns = torch.arange(longest, device=ids.device)
        mask_BT = columns < sizes[:, None]
        # Not ids_BT[mask_BT] = ids, for which the CPU would wait until the GPU has counted the mask.
        starts = sizes.cumsum(0) - sizes
        index_BT = (starts[:, None] + columns).clamp(max=len(ids) - 1)
        ids_BT = torch.where(mask_BT, ids[index_BT], self.tokenizer.pad_token_id or 0)
        return ids_BT, mask_BT.long()


def load_config(name: str, trust_remote_code: bool = False) -> Any:
    """Return the transformers config of a folder or hub id. Raises UserError if it cannot be loaded."""
    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        if "trust_remote_code" in str(error):
            raise UserError(
                f"'{name}' has code of its own. If you trust it, set trust_remote_code=true."
            ) from error
        raise UserError(f"'{name}' cannot be loaded: {_first_line(error)}.") from error


def check_max_tokens(settings: Any, name: str, max_tokens: int) -> None:
    """Raise UserError if the model `name` with the config `settings` does not take chunks of `max_tokens`."""
    longest = longest_text(settings)
    if not 8 <= max_tokens <= longest:
        raise UserError(f"max_tokens={max_tokens} does not fit '{name}', which takes 8 to {longest} tokens.")


def longest_text(settings: Any) -> int:
    """Return the maximum length of a model. The RoBERTa family numbers positions from its padding id."""
    positions = int(getattr(settings, "max_position_embeddings", None) or 512)
    offset = (settings.pad_token_id or 0) + 1 if "roberta" in settings.model_type else 0
    return positions - offset


def _special_tokens(backend: Any) -> tuple[list[int], list[int]]:
    """Return the ids that a tokenizer adds before and after a text."""
    encoding = backend.encode("a")
    text = [i for i, special in enumerate(encoding.special_tokens_mask) if not special]
    return encoding.ids[: text[0]], encoding.ids[text[-1] + 1 :]


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
