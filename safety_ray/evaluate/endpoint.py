"""A model behind an OpenAI-compatible endpoint: which decoders it offers, and its answers to prompts."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from safety_ray.core.declare import setting
from safety_ray.core.errors import UserError
from safety_ray.core.secrets import hide
from safety_ray.evaluate.decoders import DECODERS, GREEDY
from safety_ray.evaluate.prompt_sets import TEXTS, Prompt
from safety_ray.evaluate.results import Row
from safety_ray.evaluate.settings import Decoding

ERROR = "error"
"""Key of an answer that the endpoint refused to give: its reason."""
_REFUSED = (400, 413, 422)
"""HTTP states that concern one request: its prompt is too long, for example."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EndpointConfig:
    """An OpenAI-compatible endpoint whose model is evaluated."""

    url: str = setting(
        "address of the API, e.g. http://127.0.0.1:8000/v1: evaluate its model in place of `model`",
        default="",
        identity=False,
    )
    model: str = setting("the model's name at the endpoint", default="")
    api_key_env: str = setting(
        "name of the environment variable with the key (not the key); '' for an endpoint without keys",
        default="",
        identity=False,
    )
    fields: dict[str, Any] = setting(
        "additional fields of each request, e.g. {top_k: 50} for vLLM's own endpoint", factory=dict
    )
    concurrency: int = setting("concurrent requests", default=8, identity=False)
    timeout_s: float = setting("seconds for one request", default=300.0, identity=False)
    retries: int = setting("retries of a failed request, with backoff", default=5, identity=False)

    def check(self) -> None:
        """Raise UserError for an invalid value."""
        if self.url and not self.model:
            raise UserError("endpoint.model is empty; give the model's name at endpoint.url.")
        if self.model and not self.url:
            raise UserError("endpoint.url is empty; give the address of the endpoint of endpoint.model.")
        if self.concurrency < 1 or self.retries < 0 or self.timeout_s <= 0:
            raise UserError(
                f"endpoint: concurrency={self.concurrency} must be at least 1, retries={self.retries} at "
                f"least 0 and timeout_s={self.timeout_s} above 0."
            )


class Endpoint:
    """A connection. Raises UserError if the endpoint cannot be reached or refuses the key."""

    def __init__(self, config: EndpointConfig) -> None:
        import openai

        self.config = config
        key = os.environ.get(config.api_key_env, "") if config.api_key_env else ""
        if config.api_key_env and not key:
            raise UserError(
                f"endpoint.api_key_env: the environment variable {config.api_key_env} is empty; set it to "
                "the key, or set endpoint.api_key_env='' for an endpoint without keys."
            )
        self._key = key
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._get("models")
        self.modes = frozenset(self._get("safety").get("modes", ()))
        """Safety modes that the endpoint offers (docs/serve.md); empty for other software."""
        self.client = openai.OpenAI(
            api_key=key or "none", base_url=config.url, timeout=config.timeout_s, max_retries=config.retries
        )

    def choose(self, names: list[str]) -> list[str]:
        """Return the decoders to compare, by default `greedy`.

        Raises UserError for a decoder that the endpoint does not offer.
        """
        offered = [
            name for name, decoder in DECODERS.items() if not decoder.mode or decoder.mode in self.modes
        ]
        for name in names:
            if name not in offered:
                raise UserError(
                    f"decoders: '{name}' cannot be asked of the endpoint {self.config.url}; "
                    f"choose from {', '.join(offered)}."
                )
        return names or [GREEDY]

    def answer(self, prompt: Prompt, decoder: str, decoding: Decoding, seed: int, *, chat: bool) -> Row:
        """Return the answer as a row like those of `decoders.answer`, or a row with the reason as `error`.

        With `chat`, prompts of prompt sets are messages of the user, and the endpoint applies its template.
        `log_prob` and `p_tag` are None: not every endpoint has them. `safety` has the report of an endpoint
        with safety modes. Raises UserError if no request can succeed.
        """
        import openai

        fields = self._fields(decoder, decoding, seed)
        try:
            if chat and prompt.prompt_set not in TEXTS:
                reply: Any = self.client.chat.completions.create(
                    model=self.config.model, messages=[{"role": "user", "content": prompt.text}], **fields
                )
            else:
                reply = self.client.completions.create(model=self.config.model, prompt=prompt.text, **fields)
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise UserError(
                f"the endpoint {self.config.url} refuses the key in {self.config.api_key_env or '(none)'} "
                f"(HTTP {error.status_code})."
            ) from None
        except openai.APIStatusError as error:
            if error.status_code in _REFUSED:
                body = error.body if isinstance(error.body, dict) else {}
                message = str(body.get("message", error.message))
                return {ERROR: f"HTTP {error.status_code}: {hide(message, self._key)}"}
            raise UserError(
                f"the endpoint {self.config.url} answered model '{self.config.model}' with HTTP "
                f"{error.status_code}; when it works again, the same command resumes."
            ) from None
        except openai.APIError as error:
            raise UserError(
                f"the endpoint {self.config.url} gave no answer ({type(error).__name__}); when it works "
                "again, the same command resumes."
            ) from None
        if not reply.choices:
            return {ERROR: "the endpoint sent no choice"}
        choice = reply.choices[0]
        text = choice.message.content if hasattr(choice, "message") else choice.text
        report = (choice.model_extra or {}).get("safety")
        row = {
            "answer": text or "",
            "tokens": reply.usage.completion_tokens if reply.usage else None,
            "log_prob": None,
            "finished": choice.finish_reason not in ("length", "content_filter"),
            "p_tag": None,
        }
        if isinstance(report, dict):
            row |= {"safety": report, "tag_emitted": bool(report.get("stopped"))}
        return row

    def _fields(self, decoder: str, decoding: Decoding, seed: int) -> dict[str, Any]:
        """Return the fields of a request with this decoder."""
        declared = DECODERS[decoder]
        fields: dict[str, Any] = {"max_tokens": decoding.max_new_tokens, **declared.request(decoding)}
        if declared.samples:
            fields["seed"] = seed
        safety = fields.pop("safety", None)
        if safety is None and self.modes:  # the endpoint's default mode may be another one
            safety = {"mode": "mask" if "mask" in self.modes else "off"}
        body = {**self.config.fields, **({"safety": safety} if safety else {})}
        return {**fields, "extra_body": body}

    def _get(self, path: str) -> dict[str, Any]:
        """Return the JSON object at `path`; {} if there is none."""
        import httpx

        try:
            response = httpx.get(f"{self.config.url.rstrip('/')}/{path}", headers=self.headers, timeout=15)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise UserError(
                f"the endpoint endpoint.url={self.config.url} cannot be reached ({type(error).__name__})."
            ) from None
        if response.status_code in (401, 403):
            raise UserError(
                f"the endpoint {self.config.url} refuses the key in {self.config.api_key_env or '(none)'} "
                f"(HTTP {response.status_code})."
            )
        try:
            value = response.json() if response.is_success else {}
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}
