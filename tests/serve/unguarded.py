"""Replicas of which one part of the guard is bypassed; each must refuse to start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vllm.renderers.hf import HfRenderer

from safety_ray.compat.vllm_frontend import replace_generate
from safety_ray.compat.vllm_renderer import use_renderer
from serve.server import GuardedRenderer, SafetyServer

PYTHONPATH = str(Path(__file__).parent)
"""To be set in the environment of a test, so that replicas can import this module."""


class WithoutGuard(SafetyServer):
    """The OpenAI layer calls the engine itself."""

    def install_guard(self) -> None:
        pass


class WithForwardingGuard(SafetyServer):
    """A function that forwards every request to the engine takes the place of the guard."""

    def install_guard(self) -> None:
        engine_generate = self.client.generate

        def forward(*args: Any, **kwargs: Any) -> Any:
            return engine_generate(*args, **kwargs)

        replace_generate(self.client, forward)


class LeakyRenderer(GuardedRenderer):
    """Tokenizes prompts with the model's own tokenizer, which turns text into special tokens."""

    def _tokenize_prompt(self, prompt: Any, params: Any) -> Any:
        return HfRenderer._tokenize_prompt(self, prompt, params)


class WithLeakyRenderer(SafetyServer):
    """A text that spells the tag becomes the tag."""

    def install_renderer(self) -> None:
        use_renderer(LeakyRenderer)


class WithoutIdCheck(SafetyServer):
    """Neither the server nor the guard checks the token ids of a completion's prompt."""

    def _check_prompt_ids(self, prompt: Any) -> None:
        if isinstance(prompt, list):
            self.guard.tag_id = -1
