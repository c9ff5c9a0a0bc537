"""Engine `openai`: concurrent requests from one actor to an OpenAI-compatible endpoint."""

from __future__ import annotations

import asyncio
import os
import platform
import time
from collections.abc import Awaitable, Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from safety_ray.core.errors import UserError
from safety_ray.core.secrets import hide
from safety_ray.llm.engine import EngineConfig, Outcome, Processor, row_seed, truncated, with_outcomes

if TYPE_CHECKING:
    import openai


def _key(config: EngineConfig) -> str:
    """Return the key, as this process can read it; it must not occur in a record, log or message.

    It is no argument of a task or an actor, because Ray shows and exports the arguments of operators.
    """
    if config.api_key_file:
        try:
            key = Path(config.api_key_file).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"the file engine.api_key_file={config.api_key_file} cannot be read on {platform.node()} "
                f"({type(error).__name__}); it must be a text file on all machines."
            ) from None
        if not key:
            raise UserError(
                f"the file engine.api_key_file={config.api_key_file} is empty; write the key to it."
            )
        return key
    if not config.api_key_env:
        return ""
    key = os.environ.get(config.api_key_env, "")
    if not key:
        raise UserError(
            f"the environment variable {config.api_key_env} has no key for {config.base_url} on "
            f"{platform.node()}; set it on all machines before `ray start`, name a file with "
            "engine.api_key_file, or set engine.api_key_env='' for an endpoint without keys."
        )
    return key


def check(config: EngineConfig) -> None:
    """Raise UserError if the key is missing or refused, or the endpoint does not answer."""
    import httpx

    key = _key(config)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        response = httpx.get(f"{config.base_url.rstrip('/')}/models", headers=headers, timeout=15)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UserError(
            f"the endpoint engine.base_url={config.base_url} cannot be reached ({type(error).__name__})."
        ) from None
    if response.status_code in (401, 403):
        refused = f"the key in {_place(config)}" if key else "a request without a key"
        raise UserError(f"the endpoint {config.base_url} refuses {refused} (HTTP {response.status_code}).")


def _place(config: EngineConfig) -> str:
    return config.api_key_file or config.api_key_env or "(none)"


def _limit(requests_per_minute: float) -> Callable[[Any], Awaitable[None]]:
    """Return a hook that spaces all requests evenly, retries included, to keep the rate in every minute."""
    from aiolimiter import AsyncLimiter

    spaced = AsyncLimiter(1, 60 / requests_per_minute) if requests_per_minute else None

    async def wait(request: Any) -> None:
        if spaced:
            await spaced.acquire()

    return wait


_UNAVAILABLE = (429, 502, 503, 504)
"""states of an endpoint that have nothing to do with a row"""


class _Endpoint:
    """An actor that sends concurrent requests to one endpoint."""

    def __init__(self, config: EngineConfig, schema: dict[str, Any] | None) -> None:
        self.config = config
        self.slots = asyncio.Semaphore(config.concurrency)
        self.format: dict[str, Any] = {}
        if schema is not None:
            json_schema = {"name": "reply", "schema": schema, "strict": True}
            self.format = {"response_format": {"type": "json_schema", "json_schema": json_schema}}

    @cached_property
    def key(self) -> str:
        return _key(self.config)  # not in the constructor, of whose errors Ray keeps only the text

    @cached_property
    def client(self) -> openai.AsyncOpenAI:
        import openai

        config = self.config
        # The client retries after 408, 409, 429, 5xx and broken connections, with pauses that double from
        # half a second or follow the Retry-After header.
        return openai.AsyncOpenAI(
            api_key=self.key or "none",
            base_url=config.base_url,
            timeout=config.timeout_s,
            max_retries=config.retries,
            http_client=openai.DefaultAsyncHttpxClient(
                event_hooks={"request": [_limit(config.requests_per_minute)]}
            ),
        )

    async def __call__(self, batch: pa.Table) -> pa.Table:
        try:
            async with asyncio.TaskGroup() as group:  # a UserError of one request cancels the others
                start = time.monotonic()
                requests = [group.create_task(self.request(row, start)) for row in batch.to_pylist()]
        except ExceptionGroup as group_error:  # Python 3.11.2 makes a group of what `except*` raises
            for error in group_error.exceptions:
                if isinstance(error, UserError):
                    raise error from None
            raise
        return with_outcomes(batch, [request.result() for request in requests])

    async def request(self, row: dict[str, Any], start: float) -> Outcome:
        """Return the outcome of one row. Raises UserError if no request can succeed."""
        import openai

        config = self.config
        try:
            async with self.slots:
                answer = await self.client.chat.completions.create(
                    model=config.model,
                    messages=row["messages"],
                    max_tokens=config.max_tokens,
                    temperature=config.temperature,
                    top_p=config.top_p,
                    seed=row_seed(config, row["id"]) if config.sends_seeds else openai.omit,
                    extra_headers={} if self.key else {"Authorization": openai.Omit()},
                    extra_body=config.engine_args or None,
                    **self.format,
                )
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise UserError(
                f"the endpoint {config.base_url} refuses the key in {_place(config)} "
                f"(HTTP {error.status_code})."
            ) from None
        except openai.NotFoundError:
            raise UserError(f"the endpoint {config.base_url} has no model '{config.model}'.") from None
        except openai.APIStatusError as error:
            if error.status_code in _UNAVAILABLE:  # for all rows
                raise self._gone(f"answers with HTTP {error.status_code}") from None
            reason = f"the endpoint answered HTTP {error.status_code}: {error.message}"
            return Outcome(error=hide(reason, self.key))
        except openai.APITimeoutError as error:  # perhaps of this row only
            return Outcome(error=hide(f"{type(error).__name__}: {error.message}", self.key))
        except openai.APIConnectionError:
            raise self._gone("cannot be reached") from None
        except openai.APIError as error:  # an answer that is not a completion
            return Outcome(error=hide(f"{type(error).__name__}: {error.message}", self.key))
        usage, seconds = answer.usage, time.monotonic() - start
        cached = usage.prompt_tokens_details.cached_tokens if usage and usage.prompt_tokens_details else None
        measured = (
            (usage.prompt_tokens, usage.completion_tokens, seconds, cached)
            if usage
            else (None, None, seconds)
        )
        if not answer.choices:
            return Outcome(None, "the endpoint sent no choice", *measured)
        choice = answer.choices[0]
        if choice.finish_reason == "length":
            return Outcome(None, truncated(config), *measured)
        if choice.finish_reason == "content_filter":
            return Outcome(None, "a content filter of the endpoint ended the reply", *measured)
        if not choice.message.content:
            reason = f"the endpoint sent no text (finish_reason {choice.finish_reason})"
            return Outcome(None, reason, *measured)
        return Outcome(choice.message.content, None, *measured)

    def _gone(self, what: str) -> UserError:
        """Return the error that ends the stage, because each row would fail and be rejected."""
        config = self.config
        return UserError(
            f"the endpoint {config.base_url} {what}, after {config.retries} retries; the same command "
            "resumes when it works again."
        )


def processor(config: EngineConfig, schema: dict[str, Any] | None) -> Processor:
    """Return the function that `safety_ray.llm.engine.processor` describes."""
    import ray.data

    return lambda ds: ds.map_batches(
        _Endpoint,
        fn_constructor_args=(config, schema),
        batch_format="pyarrow",
        batch_size=config.batch_size,
        compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=0.1,  # it waits for the network
    )
