"""The HTTP ingress: OpenAI's routes, GET /v1/safety, and the playground page.

Requests are checked in body.py, and errors have the form of errors.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

from fastapi import FastAPI, Request
from ray.serve.llm.ingress import make_fastapi_ingress
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import FileResponse, RedirectResponse, Response

from safety_ray.compat.ray_llm import (
    ChatCompletionRequest,
    CompletionRequest,
    DetokenizeRequest,
    HookedIngress,
    TokenizeCompletionRequest,
    ingress_app,
)
from serve.access import PAGE, Access, AccessRules, read_keys
from serve.body import read_body
from serve.errors import EndpointError, error_event
from serve.failed_requests import ErrorBoundary, answer_exception, describe

_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
ROUTES = {
    "models": lambda app: app.get("/v1/models"),
    "model_data": lambda app: app.get("/v1/models/{model:path}"),
    "completions": lambda app: app.post("/v1/completions"),
    "chat": lambda app: app.post("/v1/chat/completions"),
    "tokenize": lambda app: app.post("/tokenize"),
    "detokenize": lambda app: app.post("/detokenize"),
    "safety": lambda app: app.get("/v1/safety"),
    "page": lambda app: app.get("/", include_in_schema=False),
    "page_file": lambda app: app.get("/{name}.{kind}", include_in_schema=False),
}


class SafetyIngress(HookedIngress):
    """Ray Serve LLM's ingress; `public_settings` is what GET /v1/safety returns to clients."""

    def __init__(self, *args: Any, public_settings: dict[str, Any], api_keys: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        read_keys(api_keys)  # a replica that cannot read the keys must not start
        self._public_settings = public_settings

    def llm_handle(self, model_id: str) -> Any:
        return CancellingHandle(super().llm_handle(model_id))

    def known_model(self, name: str | None) -> str:
        model: str = self._public_settings["model"]
        if name not in (None, model):
            message = f"unknown model; this endpoint serves '{model}'."
            raise EndpointError(404, message, "model", known=model)
        return model

    async def model_data(self, model: str) -> Any:
        return await self.model(self.known_model(model))

    async def completions(self, request: Request) -> Response:
        return await self.respond(await read_body(request, CompletionRequest), "completions", request)

    async def chat(self, request: Request) -> Response:
        return await self.respond(await read_body(request, ChatCompletionRequest), "chat", request)

    async def tokenize(self, request: Request) -> Response:
        body = await read_body(request, TokenizeCompletionRequest)
        response: Response = await super().tokenize(body, request)
        return response

    async def detokenize(self, request: Request) -> Response:
        body = await read_body(request, DetokenizeRequest)
        response: Response = await super().detokenize(body, request)
        return response

    async def safety(self) -> dict[str, Any]:
        return self._public_settings

    async def page(self, request: Request) -> Response:
        if not request.url.path.endswith("/"):  # the page's own addresses are relative
            return RedirectResponse(request.url.path + "/")
        return FileResponse(PAGE / "index.html", headers=_PAGE_HEADERS)

    async def page_file(self, name: str, kind: str) -> Response:
        file = PAGE / f"{name}.{kind}"
        if file.parent != PAGE or not file.is_file():
            raise HTTPException(404)
        return FileResponse(file, headers=_PAGE_HEADERS)


class CancellingHandle:
    """A Ray Serve handle that cancels a request when the reader of its answer stops.

    When a client disconnects, Starlette ends the ingress's request, often before Ray cancels it. Ray does not
    cancel the requests that an ended request has sent, so a search would continue without a reader.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def options(self, **settings: Any) -> CancellingHandle:
        return CancellingHandle(self._handle.options(**settings))

    def __getattr__(self, method: str) -> Any:
        return SimpleNamespace(remote=lambda *args: _read(getattr(self._handle, method).remote(*args)))


async def _read(answers: Any) -> AsyncGenerator[Any, None]:
    started = False
    try:
        async for answer in answers:
            started = True
            yield answer
    except (asyncio.CancelledError, GeneratorExit):
        answers.cancel()
        raise
    except Exception as error:
        described = describe(error)
        if not started:
            raise described from error  # Ray Serve would answer some of its own exceptions, in another form
        yield error_event(described)  # the HTTP status has been sent


def routes(playground: bool) -> dict[str, Any]:
    """Return the routes, with or without those of the page."""
    return {name: add for name, add in ROUTES.items() if playground or not name.startswith("page")}


def ingress_class(rules: AccessRules, playground: bool) -> Any:
    """Return the ingress as a Ray Serve class with its routes."""
    return make_fastapi_ingress(SafetyIngress, endpoint_map=routes(playground), app=http_app(rules))


def http_app(rules: AccessRules) -> FastAPI:
    """Return the FastAPI app without its routes: access control, CORS, and one form for all errors."""
    app = ingress_app(innermost=ErrorBoundary)
    app.add_exception_handler(HTTPException, answer_exception)  # FastAPI's own, for an unknown path or method
    app.add_middleware(Access, rules=rules)
    if rules.allow_origins:  # before Access, since a browser's preflight request has no key
        app.add_middleware(
            CORSMiddleware,
            allow_origins=rules.allow_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
        )
    app.add_middleware(ErrorBoundary)  # the last middleware added is the first to receive a request
    return app
