"""A transformers model over texts: cut into chunks that it can hold, run in batches of like length."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from safety_ray.core.device import fast_bf16
from safety_ray.core.errors import UserError

_CPU_TOKENS, _GPU_TOKENS = 2048, 16384
_SHORT = 512  # tokens up to which a CPU's plain bf16 products are faster than torch's fused attention


class Transformer:
    """A model and its tokenizer on a device, from a folder or a hub id.

    `kind` is the transformers class that loads it; `max_tokens` the length of a chunk, specials
    included; `exact` keeps fp32 where bfloat16 is faster. Raises UserError where `name` cannot be
    loaded, lacks weights, needs code of its own that `trust_remote_code` does not allow, or holds fewer
    tokens.
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
        disable_progress_bar()  # a bar for a model that loads in a tenth of a second
        settings = load_config(name, trust_remote_code)
        check_max_tokens(settings, name, max_tokens)
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = torch.bfloat16 if fast_bf16(self.device) and not exact else torch.float32
        more: dict[str, Any] = {}
        if self.device == "cpu" and self.dtype == torch.bfloat16 and max_tokens <= _SHORT:
            more["attn_implementation"] = "eager"
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
            model, found = kind.from_pretrained(
                name, trust_remote_code=trust_remote_code, output_loading_info=True, **more
            )
        except (OSError, ValueError, ImportError) as error:
            raise UserError(f"'{name}' cannot be loaded: {_first_line(error)}.") from error
        # transformers makes up what a checkpoint lacks; a pooler's output is not used.
        missing = sorted(key for key in found["missing_keys"] if "pooler" not in key)
        if missing:
            raise UserError(f"'{name}' lacks {len(missing)} of the model's weights, {missing[0]} among them.")
        if not self.tokenizer.is_fast:
            raise UserError(f"'{name}' has no fast tokenizer (tokenizer.json), which cutting texts needs.")
        self.name, self.max_tokens, self.trust_remote_code = name, max_tokens, trust_remote_code
        self.model: Any = model.to(self.device, self.dtype).eval()
        self.backend = self.tokenizer.backend_tokenizer
        self.backend.no_truncation()
        self.backend.no_padding()
        self.before, self.after = _specials(self.backend)

    def chunk_ids(self, texts: list[str]) -> list[list[list[int]]]:
        """Token ids of each text, split into chunks that the model can hold (specials included)."""
        body = self.max_tokens - len(self.before) - len(self.after)
        rows = [e.ids for e in self.backend.encode_batch_fast(texts, add_special_tokens=False)]
        return [
            [[*self.before, *ids[i : i + body], *self.after] for i in range(0, max(len(ids), 1), body)]
            for ids in rows
        ]

    def batches(
        self, chunks: list[list[int]], batch_tokens: int
    ) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
        """(indices of chunks, ids_BT, mask_BT) of each forward pass, padding within `batch_tokens`.

        0 is what suits the device: a CPU is fastest while its caches hold what lies between two products.
        """
        batch_tokens = batch_tokens or (_CPU_TOKENS if self.device == "cpu" else _GPU_TOKENS)
        for batch in batches_by_length([len(c) for c in chunks], batch_tokens):
            yield batch, *self.padded([chunks[i] for i in batch])

    def padded(self, chunks: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """ids_BT and mask_BT of `chunks` on the device."""
        longest, pad = max(map(len, chunks)), self.tokenizer.pad_token_id or 0
        ids_BT = torch.tensor([c + [pad] * (longest - len(c)) for c in chunks], device=self.device)
        mask_BT = torch.tensor([[1] * len(c) + [0] * (longest - len(c)) for c in chunks], device=self.device)
        return ids_BT, mask_BT


def load_config(name: str, trust_remote_code: bool = False) -> Any:
    """The transformers config of a folder or hub id; UserError where there is none to be had."""
    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        if "trust_remote_code" in str(error):
            raise UserError(
                f"'{name}' brings code of its own. If you trust it, set trust_remote_code=true in "
                "python -m jobs.fit; the folder that it writes remembers that."
            ) from error
        raise UserError(f"'{name}' cannot be loaded: {_first_line(error)}.") from error


def check_max_tokens(settings: Any, name: str, max_tokens: int) -> None:
    """Raise UserError if the model `name` with the config `settings` does not take chunks of `max_tokens`."""
    longest = longest_text(settings)
    if not 8 <= max_tokens <= longest:
        raise UserError(f"max_tokens={max_tokens} does not fit '{name}', which takes 8 to {longest} tokens.")


def longest_text(settings: Any) -> int:
    """Tokens that a model takes by its config; the RoBERTa family counts places from its padding id on."""
    places = int(getattr(settings, "max_position_embeddings", None) or 512)
    offset = (settings.pad_token_id or 0) + 1 if "roberta" in settings.model_type else 0
    return places - offset


def batches_by_length(lengths: list[int], batch_tokens: int) -> list[list[int]]:
    """Indices in batches of similar length, each within `batch_tokens` after padding, longest first."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batches: list[list[int]] = []
    for i in order:
        room = batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= batch_tokens
        if room:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def _specials(backend: Any) -> tuple[list[int], list[int]]:
    """The ids that a tokenizer puts before and after a text."""
    encoded = backend.encode("a")
    inside = [i for i, special in enumerate(encoded.special_tokens_mask) if not special]
    return encoded.ids[: inside[0]], encoded.ids[inside[-1] + 1 :]


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
