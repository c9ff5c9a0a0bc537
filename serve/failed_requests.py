"""The error that a client receives for an exception in the ingress or in a replica."""

from __future__ import annotations

import logging
from typing import Any

from pydantic import ValidationError
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from vllm.exceptions import VLLMClientError, VLLMNotFoundError, VLLMUnprocessableEntityError
from vllm.v1.engine.exceptions import EngineDeadError

from safety_ray.compat.ray_llm import OpenAIHTTPException
from safety_ray.core.errors import UserError, original
from serve.errors import CANNOT_PROCESS, HAS_FAILED, EndpointError, error_response
from serve.row_queue import FULL

_logger = logging.getLogger("ray.serve")

_BY_STATUS = {
    404: "this path does not exist; requests go to /v1/completions or /v1/chat/completions.",
    405: "this path does not support the request's method; send completions and chats with POST.",
}


def describe(error: BaseException) -> EndpointError:
    """Return `error` as a client receives it; the reason of an unexpected error is only logged."""
    raised, error = error, original(error)
    if isinstance(error, EndpointError):
        return error
    if isinstance(error, UserError):
        return EndpointError(400, str(error))
    if isinstance(error, ValidationError):
        return _first_invalid_field(error.errors(include_context=False, include_input=False))
    if isinstance(error, VLLMClientError):
        kinds = {VLLMNotFoundError: 404, VLLMUnprocessableEntityError: 422}
        status = next((status for kind, status in kinds.items() if isinstance(error, kind)), 400)
        return EndpointError(status, str(error), getattr(error, "parameter", None))
    if isinstance(error, OpenAIHTTPException):  # an error that a replica has returned
        return EndpointError(error.status_code, error.message)
    if isinstance(error, HTTPException):
        return EndpointError(error.status_code, _BY_STATUS.get(error.status_code, CANNOT_PROCESS))
    if isinstance(error, BackPressureError):
        return EndpointError(503, FULL)
    if isinstance(error, (EngineDeadError, RayActorError, DeploymentUnavailableError)):
        return EndpointError(503, "the engine has ended and is started again; try again later.")
    _logger.error("A request has failed.", exc_info=raised)  # with the frames of the worker
    return EndpointError(500, HAS_FAILED)


def _first_invalid_field(errors: Any) -> EndpointError:
    """Return a sentence about the first of pydantic's errors."""
    if not errors:
        return EndpointError(400, CANNOT_PROCESS)
    path = [str(part) for part in errors[0].get("loc", ()) if part != "body"]
    text = str(errors[0].get("msg", "the value is invalid")).rstrip(".")
    name = path[0] if path else "the body"
    return EndpointError(400, f"{name}: {text[:1].lower()}{text[1:]}.", path[0] if path else None)


async def answer_exception(request: Any, error: Exception) -> JSONResponse:
    """Return the response to an exception (a handler of FastAPI's)."""
    return error_response(describe(error), getattr(error, "headers", None))


class ErrorBoundary:
    """ASGI middleware that answers any exception of `app`, so that Ray Serve never sends its traceback."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def track(message: Any) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, track)
        except Exception as error:
            described = describe(error)
            if not started:  # else the server closes the connection, since the response is incomplete
                await error_response(described)(scope, receive, send)
