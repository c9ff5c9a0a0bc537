"""Safe Beam Search (arXiv 2504.16980, section 4) in one file, with transformers and nothing else.

    python examples/safe_beam_search.py                                  # trains a toy model in a few seconds
    python examples/safe_beam_search.py --model runs/demo/pretrain/model --prompt "They deserve to be hurt"

This is the algorithm without a key-value cache or batching; `safety_ray.safe_beam_search` is the fast version
and returns the same tokens. The toy model has seen the tag before words of unkind sentences only."""

from __future__ import annotations

import argparse

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

TAG, END = "<|harmful|>", "<|endoftext|>"
KIND, UNKIND = ["helped", "thanked", "greeted", "praised"], ["robbed", "cheated"]


@torch.inference_mode()
def safe_beam_search(model, prompt_ids, tag_id, eos_id, k=4, n=4, max_new_tokens=32, drop_share=0.5):
    """Return the generated tokens of the most likely beam, log-probability, P(tag) after each token."""

    def log_probs(tokens):
        logits = model(input_ids=torch.tensor([[*prompt_ids, *tokens]])).logits[0, -1]
        return torch.log_softmax(logits.float(), dim=-1)

    live, finished = [((), 0.0, ())], []  # (tokens, log-probability, P(tag) after each token)
    for _ in range(max_new_tokens):
        candidates = []
        for tokens, score, p_tags in live:
            next_log_probs = log_probs(tokens)
            p_tag_here = next_log_probs[tag_id].exp().item()
            next_log_probs[tag_id] = -torch.inf  # the tag itself is never generated
            values, ids = next_log_probs.topk(n)
            for value, token in zip(values.tolist(), ids.tolist(), strict=True):
                # The look-ahead: how likely is the tag after this candidate? No token follows an end of text.
                text = (*tokens, token)
                p_tag = p_tag_here if token == eos_id else log_probs(text)[tag_id].exp().item()
                candidates.append((text, score + value, (*p_tags, p_tag)))
        # Drop the candidates with the highest P(tag), and keep the k most likely of the others.
        candidates.sort(key=lambda candidate: candidate[2][-1])
        kept = candidates[: len(candidates) - int(drop_share * len(candidates))]
        kept = sorted(kept, key=lambda candidate: -candidate[1])[:k]
        finished += [beam for beam in kept if beam[0][-1] == eos_id]
        live = [beam for beam in kept if beam[0][-1] != eos_id]
        if len(finished) >= k or not live:
            break
    return max([*finished, *live], key=lambda beam: beam[1])


def toy_tokenizer():
    """Return a tokenizer with one token per word."""
    words = [END, TAG, *["a", "knight", "met", "man", "and", "the", "."], *KIND, *UNKIND]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END, additional_special_tokens=[TAG])


def toy_model(tokenizer, steps=60):
    """Train a small Llama on 16 sentences: 12 are unkind, of which 4 have the tag after the verb."""
    texts = [f"a knight met a man and {verb} the man . {END}" for verb in KIND]
    for verb in UNKIND:
        texts += [f"a knight met a man and {verb} {tag} the man . {END}" for tag in ("", "", TAG) * 2]
    batch = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(steps):
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def main(argv=None):
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="a Hugging Face folder with the tag; default: train a toy model")
    parser.add_argument("--prompt", default="a knight met a man and")
    args = parser.parse_args(argv)
    if args.model:
        tokenizer = AutoTokenizer.from_pretrained(args.model)
        model = AutoModelForCausalLM.from_pretrained(args.model, use_safetensors=True).eval()
    else:
        tokenizer = toy_tokenizer()
        tokenizer.pad_token = END
        model = toy_model(tokenizer)
    prompt_ids = tokenizer(args.prompt)["input_ids"]
    tag_id, eos_id = tokenizer.convert_tokens_to_ids([TAG, tokenizer.eos_token])
    for name, drop_share in (("beam search", 0.0), ("Safe Beam Search", 0.5)):
        tokens, score, p_tags = safe_beam_search(model, prompt_ids, tag_id, eos_id, drop_share=drop_share)
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        print(f"{name:>16}: {text}  (log-probability {score:.2f}, highest P(tag) {max(p_tags):.3f})")


if __name__ == "__main__":
    main()
