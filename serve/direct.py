"""HTTP in the engine's own process, without Ray Serve's proxy and ingress between client and engine.

The application is the ingress's (ingress.py), with its routes, keys, limits, checks and errors. The server in
this process takes the place of the handle to a deployment, so that every request passes the same methods and
the guard. None of vLLM's own routes exist.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import uvicorn
from fastapi import FastAPI

from safety_ray.core.errors import UserError
from serve.access import AccessRules
from serve.ingress import SafetyIngress, http_app, routes

_KEEP_ALIVE_S = 90  # as Ray Serve's proxy


class LocalHandle:
    """Calls the methods of a server in this process, with the interface of a Ray Serve handle."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def options(self, **settings: Any) -> LocalHandle:
        return self

    def __getattr__(self, method: str) -> Any:
        return SimpleNamespace(remote=lambda *args: LocalAnswers(getattr(self._server, method)(*args)))


class LocalAnswers:
    """The answers of a method of the server; `cancel` ends it although its reader has not reached the end."""

    def __init__(self, call: Any) -> None:
        self._items = self._read(call)
        self._end: asyncio.Task[None] | None = None

    async def _read(self, call: Any) -> AsyncGenerator[Any, None]:
        async with aclosing(await call) as items:
            async for item in items:
                yield item

    def __aiter__(self) -> AsyncGenerator[Any, None]:
        return self._items

    def cancel(self) -> None:
        self._end = asyncio.ensure_future(self._items.aclose())


class CancelOnDisconnect:
    """ASGI middleware that cancels a request whose client has disconnected, as Ray Serve's proxy does.

    Starlette notices a disconnected client only while it sends a stream.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        messages: asyncio.Queue[Any] = asyncio.Queue(1)  # the application reads the body at its own pace
        complete = False

        async def listen() -> None:
            while (message := await receive())["type"] != "http.disconnect":
                await messages.put(message)

        async def send_and_watch(message: Any) -> None:
            nonlocal complete
            complete |= message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        async def receive_next() -> Any:
            getter = asyncio.ensure_future(messages.get())
            try:
                await asyncio.wait({getter, listener}, return_when=asyncio.FIRST_COMPLETED)
                return getter.result() if getter.done() else {"type": "http.disconnect"}
            finally:
                getter.cancel()  # also if Starlette cancels this call, at the end of a stream

        listener = asyncio.create_task(listen())
        request = asyncio.create_task(self._app(scope, receive_next, send_and_watch))
        try:
            await asyncio.wait({request, listener}, return_when=asyncio.FIRST_COMPLETED)
            if not request.done() and not complete:
                request.cancel()
            await asyncio.gather(request, return_exceptions=True)
        finally:
            for task in (request, listener):
                task.cancel()
        if not request.cancelled() and (error := request.exception()) is not None:
            raise error


@dataclass(frozen=True, slots=True)
class DirectSettings:
    """The address at which a replica answers HTTP itself, and the arguments of its ingress.

    When the replica ends, its running answers have `drain_s` seconds: Ray Serve does not know them.
    """

    host: str
    port: int
    drain_s: float
    rules: AccessRules
    playground: bool
    public_settings: dict[str, Any]


def direct_app(server: Any, settings: DirectSettings, model_card: Any) -> FastAPI:
    """Return the ingress's application for a server in this process."""
    model: str = settings.public_settings["model"]
    ingress = SafetyIngress(
        llm_deployments={model: LocalHandle(server)},
        model_cards={model: model_card},
        public_settings=settings.public_settings,
        api_keys=settings.rules.api_keys,
    )
    app = http_app(settings.rules)
    for name, add in routes(settings.playground).items():
        add(app)(getattr(ingress, name))
    app.add_middleware(CancelOnDisconnect)
    return app


class DirectServer:
    """An HTTP server in this process's event loop."""

    def __init__(self, app: Any) -> None:
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            ws="none",
            server_header=False,
            proxy_headers=False,  # a client must not choose the address by which it is limited
        )
        self._server = uvicorn.Server(config)
        self._task: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int, timeout_s: float = 60.0) -> None:
        """Accept connections from now on. Raises UserError if the port cannot be used within `timeout_s`.

        A killed replica may have the port for some time.
        """
        end = asyncio.get_running_loop().time() + timeout_s
        while True:
            try:
                listening = _listen(host, port)
                break
            except OSError as error:
                if asyncio.get_running_loop().time() > end:
                    raise UserError(f"port {port} on {host} cannot be used ({error.strerror}).") from error
            await asyncio.sleep(0.2)
        self._task = asyncio.create_task(self._server.serve(sockets=[listening]))
        while not self._server.started and not self._task.done():
            await asyncio.sleep(0.01)
        self.check()

    def check(self) -> None:
        """Raise RuntimeError if the server has ended."""
        if self._task is not None and self._task.done():
            raise RuntimeError("the HTTP server has ended")

    async def drain(self, seconds: float) -> None:
        """Accept no more connections, and wait until the running answers have ended or for `seconds`."""
        self._server.config.timeout_graceful_shutdown = max(round(seconds), 1)
        self._server.should_exit = True
        if self._task is not None:
            await asyncio.wait({self._task})


def _listen(host: str, port: int) -> socket.socket:
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listening = socket.socket(family, kind)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(2048)
    except OSError:
        listening.close()
        raise
    return listening
