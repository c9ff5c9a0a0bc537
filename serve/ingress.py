"""The HTTP ingress: OpenAI's routes with errors in OpenAI's format, GET /v1/safety, and the playground
page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

from fastapi import Request
from ray.serve.exceptions import BackPressureError
from ray.serve.llm.ingress import make_fastapi_ingress
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response

from safety_ray.compat.ray_llm import HookedIngress, OpenAIHTTPException, ingress_app
from serve.access import PAGE, Access, AccessRules, read_keys

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

    async def respond(self, body: Any, method: str, raw_request: Any = None) -> Response:
        try:
            return await super().respond(body, method, raw_request)
        except OpenAIHTTPException as error:
            return error_response(error.status_code, error.message, error.type)
        except BackPressureError:
            return error_response(
                503, "the endpoint has too many requests waiting; try again later.", "overloaded"
            )

    async def safety(self) -> dict[str, Any]:
        return self._public_settings

    async def page(self, request: Request) -> Response:
        if not request.url.path.endswith("/"):  # the page's own addresses are relative
            return RedirectResponse(request.url.path + "/")
        return FileResponse(PAGE / "index.html", headers=_PAGE_HEADERS)

    async def page_file(self, name: str, kind: str, request: Request) -> Response:
        file = PAGE / f"{name}.{kind}"
        if file.parent != PAGE or not file.is_file():
            return error_response(404, f"'{request.url.path}' does not exist.", "not_found_error")
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
    try:
        async for answer in answers:
            yield answer
    except (asyncio.CancelledError, GeneratorExit):
        answers.cancel()
        raise


def ingress_class(rules: AccessRules, playground: bool) -> Any:
    """Return the ingress as a Ray Serve class with its routes."""
    app = ingress_app()
    app.add_middleware(Access, rules=rules)  # the last middleware added is the first to receive a request
    routes = {name: add for name, add in ROUTES.items() if playground or not name.startswith("page")}
    return make_fastapi_ingress(SafetyIngress, endpoint_map=routes, app=app)


def error_response(status: int, message: str, kind: str) -> Response:
    """Return an error in OpenAI's format."""
    body = {"message": message, "type": kind, "param": None, "code": status}
    headers = {"Retry-After": "1"} if status in (429, 503) else None
    return JSONResponse({"error": body}, status_code=status, headers=headers)
