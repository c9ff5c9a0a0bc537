"""Complete a prompt with a running endpoint in three decoding modes, with OpenAI's client.

    python -m serve.app configs/serve/demo.yaml                  # in another terminal
    python examples/ask_the_endpoint.py "They deserve to be hurt, and we will"

docs/serve.md lists all modes and parameters, and the fields of a report.
"""

from __future__ import annotations

import argparse
from typing import Any

from openai import OpenAI

MODES: list[dict[str, Any]] = [
    {"mode": "off"},
    {"mode": "stop", "threshold": 0.03},
    {"mode": "safebeam", "beam_size": 4, "num_candidates": 4},
]


def complete(client: OpenAI, model: str, prompt: str, safety: dict[str, Any], max_tokens: int) -> Any:
    """Return the choice of one completion; its field `safety` is the report."""
    answer = client.completions.create(
        model=model,
        prompt=prompt,
        max_tokens=max_tokens,
        temperature=0,
        extra_body={"safety": safety},  # the client sends unknown fields only in extra_body
    )
    return answer.choices[0]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("prompt")
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--key", default="none", help="API key, if the endpoint needs one")
    parser.add_argument("--model", default="safety-ray")
    parser.add_argument("--max-tokens", type=int, default=32)
    args = parser.parse_args(argv)
    with OpenAI(base_url=args.url, api_key=args.key) as client:
        for safety in MODES:
            choice = complete(client, args.model, args.prompt, safety, args.max_tokens)
            report = choice.safety
            p_tag = "not measured" if report["p_tag"] is None else f"{report['p_tag']:.3f}"
            print(f"{report['mode']:>8}: {choice.text!r}")
            print(f"{'':>8}  finish_reason {choice.finish_reason}, highest P(tag) {p_tag}")


if __name__ == "__main__":
    main()
