"""The language model: with new weights, or from a checkpoint. Independent of workers and parallelism."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from safety_ray.core import filesystem, model_path, tag
from safety_ray.core.errors import UserError
from safety_ray.train import attention
from safety_ray.train.adapters import adapt
from safety_ray.train.loss import summed_cross_entropy
from safety_ray.train.settings import ModelConfig

_SHORT = 512  # context in tokens up to which eager attention is faster on CPUs than sdpa in bf16
_MULTIPLE = 64  # of embedding rows; matrix products with other sizes are slow on most devices


class LanguageModel(nn.Module):
    """A causal language model of transformers that returns losses instead of logits.

    With `document_mask`, no token attends to another document of its row.
    """

    def __init__(self, network: Any, *, document_mask: bool = False, compile_loss: bool = False) -> None:
        super().__init__()
        self.network, self.compile_loss = network, compile_loss
        self.document_mask = document_mask
        self.block_mask = document_mask and network.config._attn_implementation == "flex_attention"

    @property
    def attention(self) -> str:
        """Name of the attention implementation in transformers."""
        return str(self.network.config._attn_implementation)

    @property
    def blocks(self) -> nn.ModuleList:
        """The decoder layers."""
        layers: nn.ModuleList = self.network.base_model.layers
        return layers

    def flops_per_token(self, context: int) -> float:
        """Return the FLOPs of a forward and backward pass per token of a row of `context` tokens.

        6 per parameter in a matrix product (4 if it is not trained), plus 12 · layers · width · context for
        attention, without a reduction for the causal mask (convention of PaLM).
        """
        settings = self.network.config
        weights = sum(p.numel() * (6 if p.requires_grad else 4) for p in self.network.parameters())
        table = self.network.get_input_embeddings().weight
        if table is not self.network.get_output_embeddings().weight:
            weights -= table.numel() * (6 if table.requires_grad else 4)  # a look-up is not a product
        return float(weights + 12 * settings.num_hidden_layers * settings.hidden_size * context)

    def forward(
        self,
        ids_BT: Tensor,
        targets_BT: Tensor,
        positions_BT: Tensor,
        tag_id: int = -1,
        tag_weight: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Return the sum of the losses of `targets_BT`, and the cross-entropy of each [B, T], in fp32.

        The two differ by `tag_weight`, the weight of the choice between the tag and other tokens (loss.py).
        Targets are the next token or IGNORED. With a document mask, positions restart at each document, and
        attention to the tokens before the restart is masked: by transformers, or by a mask of blocks for flex
        attention.
        """
        mask = attention.document_block_mask(positions_BT) if self.block_mask else None
        hidden_BTD = self.network.base_model(
            input_ids=ids_BT, attention_mask=mask, position_ids=positions_BT, use_cache=False
        ).last_hidden_state
        head_VD = self.network.get_output_embeddings().weight
        total, losses_N = summed_cross_entropy(
            hidden_BTD.flatten(0, 1), head_VD, targets_BT.flatten(),
            tag_id=tag_id, tag_weight=tag_weight, compiled=self.compile_loss,
        )  # fmt: skip
        return total, losses_N.view_as(targets_BT)


def build(config: ModelConfig, tokenizer: Any, *, context: int, device: str) -> LanguageModel:
    """Build a model in fp32 with the tokenizer's vocabulary, for rows of `context` tokens.

    New weights are sampled from torch's global generator, so seed it first. Raises UserError if the
    checkpoint does not exist, has another tokenizer, has less context, or is not a decoder, and if the
    attention implementation cannot be used on this machine.
    """
    if device == "cpu" and config.attention.startswith(("flash", "flex")):
        raise UserError(f"model.attention={config.attention}: cannot be trained on a CPU; use auto.")
    name = config.attention
    if name == "auto":
        name = "eager" if device == "cpu" and context <= _SHORT else "sdpa"
        if device != "cpu" and config.document_mask:
            name = "flex_attention"  # sdpa would need a dense mask
    try:
        if config.init:
            network, added = _load(config.init, tokenizer, context, name)
        else:
            network, added = _new(config, len(tokenizer), context, name), []
    except ImportError as error:  # raised by transformers
        if config.attention.startswith("flash") or not config.init:
            raise UserError(f"model.attention={name} cannot be used: {error} Use auto.") from error
        raise UserError(f"model.init: '{config.init}' needs another package: {error}") from error
    if config.lora_rank:
        adapt(network, config.lora_rank, config.lora_alpha, new_tokens=bool(added))
    if not hasattr(network.base_model, "layers"):
        raise UserError(
            f"model.init: '{config.init}' is not a decoder of the Llama family: it has no layers."
        )
    plain = config.attention == "auto" and name == "sdpa" and not config.document_mask
    if plain and attention.allows_causal(network.config):
        network.set_attn_implementation(attention.causal_name(device))
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if bos is None:  # a document follows the end of another one
        bos = tokenizer.get_vocab().get(tag.END_OF_TEXT)
    for settings in (network.config, network.generation_config):
        settings.bos_token_id, settings.eos_token_id = bos, eos
        settings.pad_token_id = tokenizer.pad_token_id
    return LanguageModel(network, document_mask=config.document_mask, compile_loss=config.compile_loss)


def longest_context(path: str, key: str = "model.init") -> int:
    """Return the context length of the model `path`. Raises UserError, naming `key`, if there is no model."""
    try:
        settings = AutoConfig.from_pretrained(filesystem.local_copy(model_path.find(path, key)))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{key}: '{path}' cannot be loaded; give a folder with a model of transformers, or a hub id."
        ) from error
    return int(getattr(settings, "max_position_embeddings", None) or 2048)


def check_continues(path: str, tokenizer: Any, context: int) -> list[int]:
    """Return the ids that `tokenizer` has in addition to those of the model `path`.

    Raises UserError if the model does not exist, has another tokenizer, or has less than `context` tokens of
    context.
    """
    longest = longest_context(path)
    if context > longest:
        raise UserError(
            f"model.init: the context of '{path}' is {longest} tokens, and the rows have {context}; "
            "pack shorter rows."
        )
    return added_ids(load_tokenizer(model_path.find(path, "model.init")), tokenizer, path)


def load_tokenizer(path: str, key: str = "model.init") -> Any:
    """Load the tokenizer of a folder, URL or hub id. Raises UserError, naming `key`, if there is none."""
    try:
        return AutoTokenizer.from_pretrained(filesystem.local_copy(path))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{key}: '{path}' has no tokenizer that can be loaded; give a folder with one, or a hub id."
        ) from error


def _new(config: ModelConfig, vocabulary: int, context: int, implementation: str) -> Any:
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
        attn_implementation=implementation,
        dtype=torch.float32,
    )


def _load(path: str, tokenizer: Any, context: int, implementation: str) -> tuple[Any, list[int]]:
    added = check_continues(path, tokenizer, context)
    try:
        network = AutoModelForCausalLM.from_pretrained(
            filesystem.local_copy(model_path.find(path)),
            dtype=torch.float32,
            attn_implementation=implementation,
            use_safetensors=True,
        )
    except (OSError, ValueError) as error:
        raise UserError(f"model.init: transformers cannot load '{path}': {error}.") from error
    grow_embeddings(network, added, len(tokenizer))
    return network, added


def added_ids(old: Any, new: Any, where: str) -> list[int]:
    """Return the ids of the tokens that `old` lacks. Raises UserError for any other difference."""
    old_ids, new_ids = old.get_vocab(), new.get_vocab()
    for token, id in old_ids.items():
        if new_ids.get(token) != id:
            raise UserError(
                f"'{where}' has another tokenizer than the token rows: its token {token!r} is missing "
                "there or has another id; pack the documents with the model's own tokenizer."
            )
    return sorted(id for token, id in new_ids.items() if token not in old_ids)


@torch.no_grad()
def grow_embeddings(network: Any, added: list[int], vocabulary: int) -> None:
    """Resize the embeddings to `vocabulary` tokens; initialize the `added` ones to the mean of the others.

    With the mean, other predictions change little (Hewitt 2021). A random row could receive most of the
    probability.
    """
    if not added:
        return
    before = min(network.get_input_embeddings().weight.shape[0], min(added))
    if vocabulary > network.get_input_embeddings().weight.shape[0]:
        network.resize_token_embeddings(vocabulary, pad_to_multiple_of=_MULTIPLE, mean_resizing=False)
    layers = (network.get_input_embeddings(), network.get_output_embeddings())
    for weight in {id(layer.weight): layer.weight for layer in layers}.values():  # tied: one matrix
        weight[added] = weight[:before].mean(dim=0)
