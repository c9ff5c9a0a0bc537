"""A model behind an OpenAI-compatible endpoint on Ray Serve, with the harmfulness tag kept out of its text.

    python -m serve.app configs/serve/demo.yaml port=8001      # in the foreground, until Ctrl-C
    serve deploy configs/serve/deploy.yaml                     # on a running cluster
    url = start(config := ServeConfig(model="runs/demo/pretrain")); ...; stop(config)

A request says what is to happen to the tag by a body field (see safety_ray/decode/processor.py):
`client.completions.create(..., extra_body={"safety": {"mode": "stop", "threshold": 0.05}})`.
"""

from __future__ import annotations

import signal
import socket
import sys
import time

from safety_ray.core import cluster
from safety_ray.core.config import load
from safety_ray.core.errors import UserError, user_error_in
from safety_ray.core.job import quiet
from serve.build import build_app, check_model
from serve.settings import ServeConfig

__all__ = ["APP", "ServeConfig", "build_app", "check_port", "main", "start", "stop"]

APP = "safety-ray"


def start(config: ServeConfig) -> str:
    """Start the endpoint in this process' Ray and return its URL (…/v1) once it answers.

    Raises UserError for a model or port that does not fit, where Ray Serve already runs, and where
    the engine does not start; nothing is left running then.
    """
    check_model(config)
    check_port(config.host, config.port)
    from ray import serve

    quiet()
    cluster.start()
    if serve.status().proxies:
        raise UserError("Ray Serve already runs on this cluster: stop it, or add to it with `serve deploy`.")
    app = build_app(config)
    try:
        serve.start(http_options={"host": config.host, "port": config.port})
        serve.run_many(
            [serve.RunTarget(app, name=APP, route_prefix=config.route_prefix)],
            wait_for_applications_running=False,
        )
        _wait(config.start_timeout_s)
    except BaseException:
        serve.shutdown()
        raise
    host = "127.0.0.1" if config.host in ("0.0.0.0", "::") else config.host
    return f"http://{host}:{config.port}{config.route_prefix.rstrip('/')}/v1"


def stop(config: ServeConfig, timeout_s: float = 60.0) -> None:
    """End the endpoint that `start` began, after the answers under way; Ray itself stays.

    They have `drain_s`. Another endpoint may be started afterwards: Ray Serve by itself waits half a
    minute at most, and not for the processes that it kills. Raises UserError where something is left
    `timeout_s` later.
    """
    from ray import serve

    serve.delete(APP, _blocking=False)  # a shutdown alone would cut the answers' connections
    end = time.monotonic() + config.drain_s + timeout_s
    while APP in serve.status().applications and time.monotonic() < end:
        time.sleep(0.2)
    serve.shutdown()
    end = time.monotonic() + timeout_s
    while left := _left(config):
        if time.monotonic() > end:
            raise UserError(f"the endpoint has not ended within {timeout_s:g} s: {left}")
        time.sleep(0.1)


def _left(config: ServeConfig) -> str:
    """What is left of an endpoint that ends; empty where nothing is."""
    import ray

    actors = ray.util.list_named_actors(all_namespaces=True)
    if names := [actor["name"] for actor in actors if actor["namespace"] == "serve"]:
        return f"still running: {', '.join(names)}."
    try:
        check_port(config.host, config.port)
    except UserError as error:
        return str(error)
    return ""


def main(argv: list[str] | None = None) -> None:
    """Serve in the foreground until Ctrl-C; exit code 2 for a user's mistake."""
    try:
        config = load(ServeConfig, sys.argv[1:] if argv is None else argv)
        url = start(config)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        mistake = error if isinstance(error, UserError) else user_error_in(error)
        if mistake is None:
            raise
        print(f"error: {mistake}", file=sys.stderr)
        raise SystemExit(2) from None
    print(f"{config.model_id} answers at {url} (safety mode {config.mode}); Ctrl-C ends it", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as containers are stopped
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        stop(config)


def check_port(host: str, port: int) -> None:
    """UserError where nothing can listen on `host` and `port`."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as error:
        raise UserError(
            f"port {port} on {host} cannot be used ({error.strerror}): choose another one with port=..."
        ) from error


def _wait(timeout_s: float) -> None:
    """Until the application runs; UserError with the reason where it fails or takes too long."""
    from ray import serve

    end, why = time.monotonic() + timeout_s, "it is still starting"
    while time.monotonic() < end:
        app = serve.status().applications.get(APP)
        if app is not None:
            if app.status == "RUNNING":
                return
            said = [d.message for d in app.deployments.values() if d.message]
            why = "\n".join(said) or app.message or why
            if app.status in ("DEPLOY_FAILED", "UNHEALTHY"):
                raise UserError(f"the endpoint did not start: {_reason(why)}")
        time.sleep(0.5)
    raise UserError(f"the endpoint did not start within start_timeout_s={timeout_s:g}: {_reason(why)}")


def _reason(message: str) -> str:
    """The line that says why, out of Ray Serve's message with its tracebacks."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    mark = "the engine did not start: "
    return next(
        (line.split(mark, 1)[1] for line in reversed(lines) if mark in line),
        (lines or ["no reason was given"])[-1],
    )


if __name__ == "__main__":
    main()
