"""The language model: made anew or continued from a checkpoint. Knows nothing of workers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import fsspec
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from safety_ray.core import tag
from safety_ray.core.errors import UserError
from safety_ray.train.adapters import adapt
from safety_ray.train.loss import summed_cross_entropy
from safety_ray.train.settings import ModelConfig

_SHORT = 512  # tokens up to which a CPU is faster with plain products than with sdpa's bf16 kernel
_MULTIPLE = 64  # of embedding rows: odd matrix sizes are slow on every device


class LanguageModel(nn.Module):
    """A causal language model of transformers that gives losses instead of logits."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    @property
    def blocks(self) -> nn.ModuleList:
        found: nn.ModuleList = self.network.base_model.layers
        return found

    def flops_per_token(self, context: int) -> float:
        """FLOPs, forward and backward, that a token of a row of `context` tokens is worth.

        6 for each parameter that multiplies it (4 where it is not trained) and 12 · layers · width ·
        context for attention, counted whole though half of it is masked: PaLM's convention.
        """
        settings = self.network.config
        weights = sum(p.numel() * (6 if p.requires_grad else 4) for p in self.network.parameters())
        table = self.network.get_input_embeddings().weight
        if table is not self.network.get_output_embeddings().weight:
            weights -= table.numel() * (6 if table.requires_grad else 4)  # a look-up is no product
        return float(weights + 12 * settings.num_hidden_layers * settings.hidden_size * context)

    def forward(self, ids_BT: Tensor, targets_BT: Tensor, positions_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy, fp32, of `targets_BT` (the next token, or IGNORED): the sum, and each one [B, T].

        Where the positions of a row begin again, transformers lets no token attend to those before.
        """
        hidden_BTD = self.network.base_model(
            input_ids=ids_BT, position_ids=positions_BT, use_cache=False
        ).last_hidden_state
        head_VD = self.network.get_output_embeddings().weight
        total, losses_N = summed_cross_entropy(hidden_BTD.flatten(0, 1), head_VD, targets_BT.flatten())
        return total, losses_N.view_as(targets_BT)


def build(config: ModelConfig, tokenizer: Any, *, context: int, device: str) -> LanguageModel:
    """A model in fp32 whose vocabulary is the tokenizer's, for rows of `context` tokens.

    New weights are drawn from torch's generator: seed it before. Raises UserError for a checkpoint
    that does not exist, has another tokenizer, cannot take `context` tokens or is no decoder.
    """
    attention = config.attention
    if attention == "auto":
        attention = "eager" if device == "cpu" and context <= _SHORT else "sdpa"
    if config.init:
        network, added = _load(config.init, tokenizer, context, attention)
        if config.lora_rank:
            adapt(network, config.lora_rank, config.lora_alpha, new_tokens=bool(added))
    else:
        network = _new(config, len(tokenizer), context, attention)
    if not hasattr(network.base_model, "layers"):
        raise UserError(f"model.init '{config.init}' is no decoder of the Llama family: it has no layers.")
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    if begin is None:  # a document begins where another has ended
        begin = tokenizer.get_vocab().get(tag.END_OF_TEXT)
    for settings in (network.config, network.generation_config):
        settings.bos_token_id, settings.eos_token_id = begin, end
        settings.pad_token_id = tokenizer.pad_token_id
    return LanguageModel(network)


def folder(path: str) -> str:
    """Where the checkpoint lies: `path`, or the model in it where `path` is a training's output."""
    inner = Path(path) / "model"
    return str(inner) if (inner / "config.json").is_file() else path


def longest_context(path: str, key: str = "model.init") -> int:
    """Tokens that the checkpoint `path` can take; UserError, naming `key`, where there is no checkpoint."""
    try:
        settings = AutoConfig.from_pretrained(folder(path))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{key}: '{path}' is no folder with a model of transformers, nor a hub id that can be loaded."
        ) from error
    return int(getattr(settings, "max_position_embeddings", None) or 2048)


def check_continues(path: str, tokenizer: Any, context: int) -> list[int]:
    """Ids that `tokenizer` has beyond the one of the checkpoint `path`.

    Raises UserError where the checkpoint does not exist, has another tokenizer, or takes less than
    `context` tokens.
    """
    longest = longest_context(path)
    if context > longest:
        raise UserError(f"model.init: '{path}' takes {longest} tokens at most, and the rows have {context}.")
    return added_ids(load_tokenizer(folder(path)), tokenizer, path)


def load_tokenizer(path: str, key: str = "model.init") -> Any:
    """The tokenizer in the folder or hub id `path`; UserError, naming `key`, where there is none."""
    try:
        if "://" in path:
            with tempfile.TemporaryDirectory() as local:
                fs, root = fsspec.core.url_to_fs(path)
                fs.get(f"{root}/", f"{local}/", recursive=True)
                return AutoTokenizer.from_pretrained(local)
        return AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{key}: '{path}' is no folder with a tokenizer of transformers, nor a hub id that can be loaded."
        ) from error


def _new(config: ModelConfig, vocabulary: int, context: int, attention: str) -> Any:
    return AutoModelForCausalLM.from_config(
        LlamaConfig(
            vocab_size=-(-vocabulary // _MULTIPLE) * _MULTIPLE,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            intermediate_size=config.intermediate_size,
            max_position_embeddings=context,
            tie_word_embeddings=config.tie_embeddings,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            rms_norm_eps=1e-5,
        ),
        attn_implementation=attention,
        dtype=torch.float32,
    )


def _load(path: str, tokenizer: Any, context: int, attention: str) -> tuple[Any, list[int]]:
    added = check_continues(path, tokenizer, context)
    try:
        network = AutoModelForCausalLM.from_pretrained(
            folder(path), dtype=torch.float32, attn_implementation=attention
        )
    except (OSError, ValueError) as error:
        raise UserError(f"model.init: '{path}' is no model that transformers can load: {error}.") from error
    grow_embeddings(network, added, len(tokenizer))
    return network, added


def added_ids(old: Any, new: Any, where: str) -> list[int]:
    """Ids of the tokens that `new` has beyond `old`; UserError where they differ in any other way."""
    had, has = old.get_vocab(), new.get_vocab()
    for token, number in had.items():
        if has.get(token) != number:
            raise UserError(
                f"'{where}' has another tokenizer than the token rows: its token {token!r} is not there "
                "under the same id; pack the documents with the model's own tokenizer."
            )
    return sorted(number for token, number in has.items() if token not in had)


@torch.no_grad()
def grow_embeddings(network: Any, added: list[int], vocabulary: int) -> None:
    """Make room for `vocabulary` tokens, and begin the `added` ones as the mean of all the others.

    The mean is the embedding about which a model knows least: it changes no other prediction much
    (Hewitt 2021), where a random row can take all the probability at once.
    """
    if not added:
        return
    before = min(network.get_input_embeddings().weight.shape[0], min(added))
    if vocabulary > network.get_input_embeddings().weight.shape[0]:
        network.resize_token_embeddings(vocabulary, pad_to_multiple_of=_MULTIPLE, mean_resizing=False)
    layers = (network.get_input_embeddings(), network.get_output_embeddings())
    for weight in {id(layer.weight): layer.weight for layer in layers}.values():  # tied: one matrix
        weight[added] = weight[:before].mean(dim=0)
