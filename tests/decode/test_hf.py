"""Safe Beam Search on transformers models, compared with the literal algorithm and with `generate`."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from brute_force import Text, answers, brute_force
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast

from safety_ray.core.errors import UserError
from safety_ray.decode.hf import expand, run_searches, safe_beam_search, safe_beam_search_batch, safe_sample
from safety_ray.decode.safebeam import Hypothesis
from safety_ray.decode.safesample import SampleSearch, SampleSettings

TAG, EOS, PAD = 3, 5, 0


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread: for models this small, more threads only add waiting time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def llama(seed: int, vocabulary: int = 20, sharpness: float = 2.0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.4,
    )
    model = LlamaForCausalLM(config).eval()
    model.lm_head.weight.data.mul_(sharpness)
    return model


class TableModel(torch.nn.Module):
    """A model whose logits are small integers, a function of the whole text: many ties, no rounding errors.

    It reads the text from the key-value cache, whose keys are (token, position), so a wrong cache or a wrong
    mask gives wrong logits.
    """

    def __init__(self, seed: int, vocabulary: int, levels: int) -> None:
        super().__init__()
        self.seed, self.levels = seed, levels
        self.config = LlamaConfig(
            vocab_size=vocabulary,
            num_hidden_layers=1,
            hidden_size=8,
            num_attention_heads=1,
            max_position_embeddings=99,
            attn_implementation="eager",
        )
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: DynamicCache | None = None,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1]).expand_as(input_ids)
        keys = torch.stack([input_ids, position_ids], dim=-1)[:, None].double()
        if past_key_values is not None:
            keys, _ = past_key_values.update(keys, keys, 0)
        tokens_and_positions = keys[:, 0].long()
        if attention_mask is None:
            attention_mask = torch.ones(tokens_and_positions.shape[:2])
        # A mask per query adds 0 to the scores of visible tokens; one per row has 1 for them, and one query.
        visible = attention_mask[:, 0] == 0 if attention_mask.ndim == 4 else attention_mask[:, None] == 1
        logits = []
        for row, queries in zip(tokens_and_positions, visible, strict=True):
            texts = [sorted(row[query].tolist(), key=lambda pair: pair[1]) for query in queries]
            assert all([p for _, p in text] == list(range(len(text))) for text in texts)
            logits.append(torch.stack([self.logits(tuple(token for token, _ in text)) for text in texts]))
        return CausalLMOutputWithPast(logits=torch.stack(logits))

    def logits(self, text: tuple[int, ...]) -> torch.Tensor:
        rng = random.Random(f"{self.seed} {text}")
        row = [float(rng.randrange(self.levels)) for _ in range(self.config.vocab_size)]
        rng.shuffle(row)
        return torch.tensor(row)


def oracle(
    model: Any, prompt: list[int], *, k: int, n: int, length: int, share: str, eos: set[int]
) -> list[Text]:
    @torch.no_grad()
    def log_probs(texts: list[tuple[int, ...]]) -> list[list[float]]:
        ids = torch.tensor([[*prompt, *text] for text in texts])
        return torch.log_softmax(model(input_ids=ids).logits[:, -1].float(), dim=-1).tolist()  # type: ignore[no-any-return]

    finished, live = brute_force(log_probs, tag=TAG, eos=frozenset(eos), k=k, n=n, length=length, share=share)
    return answers(finished, live, k)


def assert_same(hypotheses: list[Hypothesis], expected: list[Text], abs: float = 1e-4) -> None:
    assert [h.token_ids for h in hypotheses] == [t.tokens for t in expected]
    assert [h.finished for h in hypotheses] == [t.ended for t in expected]
    assert [h.log_prob for h in hypotheses] == pytest.approx([t.log_prob for t in expected], abs=abs)
    for h, t in zip(hypotheses, expected, strict=True):
        assert h.p_tag == pytest.approx(t.p_tag, abs=abs)


@pytest.mark.parametrize("block", range(10))
def test_hf_safe_beam_search_matches_brute_force_on_llama(block: int) -> None:
    """200 random models, beam sizes, candidate counts, lengths, shares and prompts."""
    for seed in range(block * 20, block * 20 + 20):
        rng = random.Random(seed)
        model = llama(seed, vocabulary=rng.choice([8, 20]), sharpness=rng.choice([1.0, 3.0]))
        prompt = [rng.randrange(8) for _ in range(rng.randint(1, 6))]
        k, n, length = rng.randint(1, 4), rng.randint(1, 5), rng.randint(1, 5)
        share = rng.choice(["0", "0.25", "0.5", "0.5", "0.8"])
        eos = rng.choice([{EOS}, {EOS, 6}, set()])
        hypotheses = safe_beam_search(
            model,
            prompt,
            tag_id=TAG,
            eos_id=eos,
            beam_size=k,
            num_candidates=n,
            max_new_tokens=length,
            drop_share=float(share),
        )
        assert_same(hypotheses, oracle(model, prompt, k=k, n=n, length=length, share=share, eos=eos))
        assert all(TAG not in h.token_ids for h in hypotheses)


@pytest.mark.parametrize("levels", [1, 2, 3, 8])
def test_hf_safe_beam_search_matches_brute_force_with_ties(levels: int) -> None:
    """Models with integer logits: with one level all tokens tie, and only the order of ids decides."""
    for seed in range(60):
        rng = random.Random(seed)
        model = TableModel(seed, rng.choice([7, 11]), levels)
        k, n, length = rng.randint(1, 5), rng.randint(1, 12), rng.randint(1, 6)
        share = rng.choice(["0", "0.3", "0.5", "0.9"])
        prompts = [[rng.randrange(7) for _ in range(rng.randint(1, 5))] for _ in range(3)]
        batch = safe_beam_search_batch(
            model,
            prompts,
            tag_id=TAG,
            eos_id=EOS,
            beam_size=k,
            num_candidates=n,
            max_new_tokens=length,
            drop_share=float(share),
        )
        for prompt, hypotheses in zip(prompts, batch, strict=True):
            expected = oracle(model, prompt, k=k, n=n, length=length, share=share, eos={EOS})
            assert_same(hypotheses, expected, abs=0.0)


@pytest.mark.parametrize("make", [llama, lambda seed: gpt2(seed)], ids=["rotary", "absolute positions"])
def test_hf_safe_beam_search_batch_matches_single_prompts(make: Any) -> None:
    model, rng = make(7), random.Random(7)
    prompts = [[rng.randrange(20) for _ in range(length)] for length in (1, 9, 4, 4, 17, 2)]
    for share, eos in ((0.5, EOS), (0.0, EOS), (0.5, None)):
        arguments = {"tag_id": TAG, "eos_id": eos, "max_new_tokens": 8, "drop_share": share}
        for prompt, batched in zip(prompts, safe_beam_search_batch(model, prompts, **arguments), strict=True):
            alone = safe_beam_search(model, prompt, **arguments)
            assert [h.token_ids for h in batched] == [h.token_ids for h in alone]
            assert [h.log_prob for h in batched] == pytest.approx([h.log_prob for h in alone], abs=1e-4)
    assert safe_beam_search_batch(model, [], tag_id=TAG, eos_id=EOS) == []


def gpt2(seed: int) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=20, n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.5)
    return GPT2LMHeadModel(config).eval()


def generate(model: Any, prompt: list[int], **arguments: Any) -> tuple[list[int], float]:
    """Return the result of transformers' beam search without the tag, and its log-probability."""
    out = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        length_penalty=0.0,
        early_stopping="never",
        suppress_tokens=[TAG],  # sets its score to -inf after the softmax, so the others are not renormalized
        pad_token_id=PAD,
        return_dict_in_generate=True,
        output_scores=True,
        **arguments,
    )
    score = out.sequences_scores[0].item() if "sequences_scores" in out else float("nan")
    return out.sequences[0, len(prompt) :].tolist(), score


@pytest.mark.parametrize("seed", range(25))
def test_hf_safe_beam_search_at_zero_drop_matches_transformers(seed: int) -> None:
    """Both agree if no beam ends before the length limit and N >= k.

    transformers considers the 2k best continuations of all beams over the whole vocabulary. With N = k, each
    beam has its k best continuations, of which at most k are kept if none ends. Once a beam ends, the two
    differ: in transformers the next best text takes the place of an ended one, and the search continues while
    a live text may still beat a finished one; here an ended text occupies one of the k places, and k ended
    texts stop the search.
    """
    model, rng = llama(seed), random.Random(seed)
    prompt, k, length = [rng.randrange(20) for _ in range(4)], rng.randint(2, 5), rng.randint(1, 10)
    hypotheses = safe_beam_search(
        model,
        prompt,
        tag_id=TAG,
        eos_id=None,
        beam_size=k,
        num_candidates=k,
        max_new_tokens=length,
        drop_share=0.0,
    )
    model.generation_config.eos_token_id = None
    tokens, score = generate(model, prompt, num_beams=k, max_new_tokens=length)
    assert list(hypotheses[0].token_ids) == tokens
    assert hypotheses[0].log_prob == pytest.approx(score, abs=1e-4)


def test_hf_safe_beam_search_final_eos_matches_transformers() -> None:
    """In both, an end of text in the last step is an ordinary candidate."""
    agreed = 0
    for seed in range(120):
        model, prompt, length = llama(seed, vocabulary=10), [1, 2, 4], 3
        hypotheses = safe_beam_search(
            model,
            prompt,
            tag_id=TAG,
            eos_id=EOS,
            beam_size=3,
            num_candidates=9,
            max_new_tokens=length,
            drop_share=0.0,
        )
        earlier = safe_beam_search(
            model,
            prompt,
            tag_id=TAG,
            eos_id=EOS,
            beam_size=3,
            num_candidates=9,
            max_new_tokens=length - 1,
            drop_share=0.0,
        )
        if any(h.finished for h in earlier) or not any(h.finished for h in hypotheses):
            continue
        model.generation_config.eos_token_id = EOS
        tokens, score = generate(model, prompt, num_beams=3, max_new_tokens=length)
        assert list(hypotheses[0].token_ids) == tokens
        assert hypotheses[0].log_prob == pytest.approx(score, abs=1e-4)
        agreed += 1
    assert agreed >= 5


@pytest.mark.parametrize("seed", range(10))
def test_hf_safe_beam_search_with_one_beam_matches_greedy(seed: int) -> None:
    model, prompt = llama(seed, vocabulary=10), [1, 2, 4]
    model.generation_config.eos_token_id = EOS
    tokens, _ = generate(model, prompt, num_beams=1, max_new_tokens=12)
    hypotheses = safe_beam_search(
        model,
        prompt,
        tag_id=TAG,
        eos_id=EOS,
        beam_size=1,
        num_candidates=1,
        max_new_tokens=12,
        drop_share=0.0,
    )
    assert len(hypotheses) == 1
    assert list(hypotheses[0].token_ids) == tokens


def test_hf_safe_beam_search_runs_one_forward_pass_per_token() -> None:
    model, shapes = llama(1), []
    hook = model.register_forward_pre_hook(
        lambda _, __, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    safe_beam_search(model, [1, 2, 4], tag_id=TAG, eos_id=None, max_new_tokens=5)
    # The prompt has one beam and therefore four candidates, of which two are kept; then four beams of four.
    assert shapes == [(1, 3), (1, 4), (1, 8), (1, 16), (1, 16), (1, 16)]
    shapes.clear()
    safe_beam_search(model, [1, 2, 4], tag_id=TAG, eos_id=None, max_new_tokens=5, drop_share=0.0)
    assert shapes == [(1, 3), *[(1, 4)] * 5], (
        "plain beam search needs no look-ahead of candidates that are not kept"
    )
    hook.remove()


def test_hf_expand_rejects_output_that_is_not_finite() -> None:
    for tag_id in (TAG, None):
        with pytest.raises(UserError, match="the model's output is not finite"):
            expand(torch.tensor([[0.0, 1.0, torch.nan, 2.0, 3.0]]), tag_id, 2)


def test_hf_expand_breaks_half_precision_ties_by_token_id() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, 9.0, 3.0, 3.0, 0.0]], dtype=torch.bfloat16)
    assert expand(logits, tag_id=3, number=2)[0].token_ids == [1, 4]
    assert expand(logits, tag_id=3, number=4)[0].token_ids == [1, 4, 5, 2]
    assert expand(logits, tag_id=3, number=99)[0].token_ids == [1, 4, 5, 2, 0, 6]


@pytest.mark.parametrize(
    ("prompt", "wrong", "message"),
    [
        ([], {}, "the prompt is empty"),
        ([1, 20], {}, "outside the model's vocabulary of 20"),
        ([-1], {}, "outside the model's vocabulary of 20"),
        ([1], {"tag_id": 20}, "tag_id=20"),
        ([1], {"tag_id": -1}, "tag_id=-1"),
        ([1], {"eos_id": 20}, "eos_id=20"),
        ([1], {"eos_id": TAG}, "both the tag"),
        ([1], {"beam_size": 0}, "beam_size=0"),
        ([1], {"num_candidates": 0}, "num_candidates=0"),
        ([1], {"drop_share": 1.0}, "drop_share=1.0"),
        ([1], {"max_new_tokens": 0}, "max_new_tokens=0"),
        ([1] * 10, {"max_new_tokens": 55}, "10 tokens.*max_new_tokens=55.*64 positions"),
    ],
)
def test_hf_safe_beam_search_rejects_invalid_arguments(
    prompt: list[int], wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        safe_beam_search(llama(0), prompt, **{"tag_id": TAG, "eos_id": EOS, **wrong})


def test_hf_safe_beam_search_uses_last_position() -> None:
    hypotheses = safe_beam_search(llama(0), [1] * 10, tag_id=TAG, eos_id=None, max_new_tokens=54)
    assert len(hypotheses[0].token_ids) == 54


@pytest.mark.parametrize("seed", range(5))
def test_hf_safe_sample_matches_sample_search(seed: int) -> None:
    model, prompt = llama(seed), [1, 2, 4]
    settings: dict[str, Any] = {"num_candidates": 5, "temperature": 0.8, "top_p": 0.9, "stride": 2}
    answer = safe_sample(model, prompt, tag_id=TAG, eos_id=EOS, max_new_tokens=9, seed=seed, **settings)
    search = SampleSearch(SampleSettings(tag_id=TAG, eos_ids={EOS}, max_new_tokens=9, seed=seed, **settings))
    assert [answer] == run_searches(model, [prompt], [search])[0]
    assert TAG not in answer.token_ids


def test_hf_safe_sample_rejects_invalid_arguments() -> None:
    with pytest.raises(UserError, match=r"top_p=0.0 must be above 0"):
        safe_sample(llama(0), [1], tag_id=TAG, eos_id=EOS, top_p=0.0)
    with pytest.raises(UserError, match="the prompt is empty"):
        safe_sample(llama(0), [], tag_id=TAG, eos_id=EOS)
