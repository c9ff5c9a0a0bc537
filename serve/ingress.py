"""The way in over HTTP: OpenAI's routes with errors in OpenAI's form, and the playground page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

from fastapi import Request
from ray.llm._internal.serve.core.configs.openai_api_models import OpenAIHTTPException, to_model_metadata
from ray.llm._internal.serve.core.ingress.ingress import init
from ray.serve.exceptions import BackPressureError
from ray.serve.llm.ingress import OpenAiIngress, make_fastapi_ingress
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response

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
    "offered": lambda app: app.get("/v1/safety"),
    "page": lambda app: app.get("/", include_in_schema=False),
    "page_file": lambda app: app.get("/{name}.{kind}", include_in_schema=False),
}


class SafetyIngress(OpenAiIngress):
    """Ray Serve LLM's ingress; `offered` is what GET /v1/safety tells clients of this endpoint."""

    def __init__(self, *args: Any, offered: dict[str, Any], api_keys: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        read_keys(api_keys)  # a replica that cannot read them must not start
        self._offered = offered

    def _get_configured_serve_handle(self, model_id: str) -> Any:
        return _Ending(super()._get_configured_serve_handle(model_id))

    async def _process_llm_request(self, body: Any, call_method: str, raw_request: Any = None) -> Response:
        try:
            answer: Response = await super()._process_llm_request(body, call_method, raw_request)
            return answer
        except OpenAIHTTPException as error:
            return _error(error.status_code, error.message, error.type)
        except BackPressureError:
            return _error(503, "the endpoint has too many requests waiting: try again later.", "overloaded")

    async def offered(self) -> dict[str, Any]:
        return self._offered

    async def page(self, request: Request) -> Response:
        if not request.url.path.endswith("/"):  # the page's own addresses are relative
            return RedirectResponse(request.url.path + "/")
        return FileResponse(PAGE / "index.html", headers=_PAGE_HEADERS)

    async def page_file(self, name: str, kind: str, request: Request) -> Response:
        file = PAGE / f"{name}.{kind}"
        if file.parent != PAGE or not file.is_file():
            return _error(404, f"there is no '{request.url.path}' here.", "not_found_error")
        return FileResponse(file, headers=_PAGE_HEADERS)


class _Ending:
    """A handle of Ray Serve whose requests end with who reads their answers.

    Where a client goes, Starlette ends the ingress's own request, often before Ray cancels it; and Ray
    does not cancel what a request that has ended began: a search would go on for nobody.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def options(self, **settings: Any) -> _Ending:
        return _Ending(self._handle.options(**settings))

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
    """The ingress as a Ray Serve class with its routes."""
    app = init()
    app.add_middleware(Access, rules=rules)  # the last one added stands before all others
    routes = {name: add for name, add in ROUTES.items() if playground or not name.startswith("page")}
    return make_fastapi_ingress(SafetyIngress, endpoint_map=routes, app=app)


def model_card(llm: Any) -> Any:
    """How GET /v1/models describes the model of a Ray Serve LLMConfig."""
    return to_model_metadata(llm.model_id, llm)


def _error(status: int, message: str, kind: str) -> Response:
    body = {"message": message, "type": kind, "param": None, "code": status}
    headers = {"Retry-After": "1"} if status in (429, 503) else None
    return JSONResponse({"error": body}, status_code=status, headers=headers)
