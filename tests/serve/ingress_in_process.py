"""The endpoint's ingress in this process, with a stand-in for the deployment that answers its requests."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from types import SimpleNamespace
from typing import Any

from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from serve.access import AccessRules
from serve.ingress import ROUTES, SafetyIngress, http_app

MODEL = "safety-ray"


class Answers:
    """The result of a Ray Serve handle: items that are iterated over, or cancelled."""

    def __init__(self, items: AsyncGenerator[Any, None]) -> None:
        self._items = items

    def __aiter__(self) -> AsyncGenerator[Any, None]:
        return self._items

    def cancel(self) -> None:
        pass


class Handle:
    """A handle whose methods all return the items of `answer(body)`."""

    def __init__(self, answer: Callable[[Any], AsyncGenerator[Any, None]]) -> None:
        self._answer = answer

    def options(self, **settings: Any) -> Handle:
        return self

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda body, info: Answers(self._answer(body)))


def ingress_client(
    answer: Callable[[Any], AsyncGenerator[Any, None]], rules: AccessRules | None = None, model: str = MODEL
) -> TestClient:
    """Return an HTTP client of an ingress; the client raises each exception that leaves the application."""
    ingress = SafetyIngress(
        llm_deployments={model: Handle(answer)},
        model_cards={model: {"id": model}},
        public_settings={"model": model},
        api_keys="",
    )
    app = http_app(rules or AccessRules())
    for kind in (BackPressureError, DeploymentUnavailableError):  # as Ray Serve does when it starts a replica
        app.add_exception_handler(kind, lambda request, error: PlainTextResponse(str(error), 503))
    for name, add in ROUTES.items():
        add(app)(getattr(ingress, name))
    return TestClient(app)
