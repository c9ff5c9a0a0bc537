"""Private parts of Ray Serve LLM's server and ingress (Ray 2.60).

Ray Serve LLM lets an application subclass its server and ingress, but keeps private the engine client (which
the guard wraps), the error types, the app with Ray's middleware, and the ingress methods through which every
request passes.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from ray.llm._internal.serve.core.configs.openai_api_models import (
    ChatCompletionRequest,
    CompletionRequest,
    ErrorInfo,
    ErrorResponse,
    OpenAIHTTPException,
    to_model_metadata,
)
from ray.llm._internal.serve.core.ingress.ingress import init
from ray.serve.llm.ingress import OpenAiIngress
from starlette.responses import Response

__all__ = [
    "ChatCompletionRequest",
    "CompletionRequest",
    "ErrorInfo",
    "ErrorResponse",
    "HookedIngress",
    "OpenAIHTTPException",
    "engine_client",
    "ingress_app",
    "model_card",
    "offer_tokenization",
    "openai_servings",
]


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


def ingress_app() -> FastAPI:
    """Return a FastAPI app with the middleware of Ray Serve LLM's ingress."""
    app: FastAPI = init()
    return app


def model_card(llm_config: Any) -> Any:
    """Return what GET /v1/models answers for the model of an LLMConfig."""
    return to_model_metadata(llm_config.model_id, llm_config)


class HookedIngress(OpenAiIngress):
    """Ray Serve LLM's ingress with two public methods to override in place of its private ones."""

    def llm_handle(self, model_id: str) -> Any:
        """Return the Ray Serve handle of the model's deployment."""
        return super()._get_configured_serve_handle(model_id)

    async def respond(self, body: Any, method: str, raw_request: Any = None) -> Response:
        """Return the response to a request by calling `method` of the model's deployment.

        Raises OpenAIHTTPException for an error response of the deployment.
        """
        response: Response = await super()._process_llm_request(body, method, raw_request)
        return response

    def _get_configured_serve_handle(self, model_id: str) -> Any:
        return self.llm_handle(model_id)

    async def _process_llm_request(self, body: Any, call_method: str, raw_request: Any = None) -> Response:
        return await self.respond(body, call_method, raw_request)
