"""The description of the engine's model runner, for the log."""

from __future__ import annotations

from types import SimpleNamespace


def test_describe_runner_names_version_runner_and_reason() -> None:
    from safety_ray.compat.versions import installed_version
    from safety_ray.compat.vllm_runners import describe_runner

    engine = f"vLLM {installed_version('vllm')} with model runner"
    assert describe_runner(SimpleNamespace(use_v2_model_runner=True)) == f"{engine} V2"
    reason = "its V2 takes no logits processors"  # in the version that the project pins
    assert describe_runner(SimpleNamespace(use_v2_model_runner=False)) == f"{engine} V1 ({reason})"
