"""Private parts of Ray Serve LLM's server and ingress (Ray 2.60).

Ray Serve LLM lets an application subclass its server and ingress, but keeps private the engine client (which
the guard wraps), the request and error types, the middleware, and the ingress methods through which every
request passes.
"""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi import FastAPI
from ray.llm._internal.common.callbacks.base import CallbackBase
from ray.llm._internal.serve.constants import ENV_VARS_TO_PROPAGATE
from ray.llm._internal.serve.core.configs.openai_api_models import (
    ChatCompletionRequest,
    CompletionRequest,
    DetokenizeRequest,
    ErrorInfo,
    ErrorResponse,
    OpenAIHTTPException,
    TokenizeCompletionRequest,
    to_model_metadata,
)
from ray.llm._internal.serve.core.ingress.middleware import SetRequestIdMiddleware
from ray.llm._internal.serve.core.ingress.utils import _sanitize_chat_completion_request
from ray.llm._internal.serve.observability.metrics.fast_api_metrics import (
    add_http_metrics_middleware,
    metrics_lifespan,
)
from ray.serve.llm.ingress import OpenAiIngress
from starlette.responses import Response

__all__ = [
    "ChatCompletionRequest",
    "CompletionRequest",
    "DetokenizeRequest",
    "ErrorInfo",
    "ErrorResponse",
    "HookedIngress",
    "LocalModel",
    "OpenAIHTTPException",
    "TokenizeCompletionRequest",
    "engine_client",
    "ingress_app",
    "keep_hub_tokens_out_of_runtime_envs",
    "model_card",
    "offer_tokenization",
    "openai_servings",
    "plain_messages",
]


Request = TypeVar("Request")


def engine_client(server: Any) -> Any:
    """Return vLLM's AsyncLLM of a started LLMServer. It is kept in `VLLMEngine._engine_client`."""
    client = server.engine._engine_client
    if client is None:
        raise RuntimeError("the LLMServer has no engine client; start it first")
    return client


def openai_servings(server: Any) -> dict[str, Any]:
    """Return the objects of vLLM's OpenAI layer that hold an engine client, by name.

    They are kept in `VLLMEngine._app_state`, from which Ray takes those that it calls.
    """
    state: dict[str, Any] = server.engine._app_state._state
    return {name: value for name, value in state.items() if hasattr(value, "engine_client")}


def offer_tokenization(server: Any) -> None:
    """Make POST /tokenize and /detokenize work: Ray 2.60 reads them under a name that vLLM 0.29 renamed."""
    server.engine._oai_serving_tokenization = getattr(server.engine._app_state, "serving_tokenization", None)


def keep_hub_tokens_out_of_runtime_envs() -> None:
    """Stop Ray Serve LLM from copying HF_TOKEN into runtime environments, which Ray shows and logs.

    A replica does so when it asks the nodes of its engine to download the model; the nodes have the variable
    themselves.
    """
    ENV_VARS_TO_PROPAGATE.clear()


def ingress_app(innermost: Any) -> FastAPI:
    """Return a FastAPI app with the middleware of Ray Serve LLM's ingress for metrics and request ids.

    Ray's error handling adds the text of any exception to the response. The middleware `innermost` takes its
    place. Ray's CORS middleware permits every website to send requests, and is left out.
    """
    app = FastAPI(lifespan=metrics_lifespan)
    app.add_middleware(innermost)
    add_http_metrics_middleware(app)
    app.add_middleware(SetRequestIdMiddleware)
    return app


class LocalModel(CallbackBase):
    """Hook of Ray Serve LLM's engine start that skips the download of the model, which is a folder.

    The download is a Ray task before the engine starts, in a process that imports vLLM: 11 CPU seconds.
    """

    async def on_before_node_init(self) -> None:
        self.ctx.run_init_node = False


def plain_messages(request: Request) -> Request:
    """Return `request` with lists in place of pydantic's iterators, which are validated on the way.

    Raises ValueError for an invalid part of a chat message.
    """
    if isinstance(request, ChatCompletionRequest):
        _sanitize_chat_completion_request(request)
    return request


def model_card(llm_config: Any) -> Any:
    """Return what GET /v1/models answers for the model of an LLMConfig."""
    return to_model_metadata(llm_config.model_id, llm_config)


class HookedIngress(OpenAiIngress):
    """Ray Serve LLM's ingress with public methods to override in place of its private ones."""

    def known_model(self, name: str | None) -> str:
        """Return the id of the model that a request names; raise an exception for an unknown one."""
        raise NotImplementedError

    def llm_handle(self, model_id: str) -> Any:
        """Return the Ray Serve handle of the model's deployment."""
        return super()._get_configured_serve_handle(model_id)

    async def respond(self, body: Any, method: str, raw_request: Any = None) -> Response:
        """Return the response to a request by calling `method` of the model's deployment.

        Raises OpenAIHTTPException for an error response of the deployment.
        """
        response: Response = await super()._process_llm_request(body, method, raw_request)
        return response

    async def _get_model_id(self, model: str | None) -> str:
        return self.known_model(model)

    def _get_configured_serve_handle(self, model_id: str) -> Any:
        return self.llm_handle(model_id)

    async def _process_llm_request(self, body: Any, call_method: str, raw_request: Any = None) -> Response:
        return await self.respond(body, call_method, raw_request)
