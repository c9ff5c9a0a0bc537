"""Serve a model behind an OpenAI-compatible endpoint on Ray Serve that keeps the harmfulness tag out of its
text.

    python -m serve.app configs/serve/demo.yaml port=8001      # in the foreground, until Ctrl-C
    serve deploy configs/serve/deploy.yaml                     # on a running cluster
    url = start(config := ServeConfig(model="runs/demo/pretrain")); ...; stop(config)

A request chooses the decoding mode with a body field (safety_ray/decode/modes.py):
`client.completions.create(..., extra_body={"safety": {"mode": "stop", "threshold": 0.05}})`.
"""

from __future__ import annotations

import signal
import socket
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from safety_ray.core import cluster
from safety_ray.core.config import load
from safety_ray.core.errors import UserError, correctable
from safety_ray.core.job import quiet
from serve.build import build_app, needed_resource
from serve.failures import NOT_STARTED
from serve.model import check_model
from serve.settings import ServeConfig

if TYPE_CHECKING:
    from serve.server import SafetyServer

__all__ = ["APP", "ServeConfig", "build_app", "check_port", "main", "start", "stop"]

APP = "safety-ray"


def start(config: ServeConfig, server_class: type[SafetyServer] | None = None) -> str:
    """Start the endpoint in this process's Ray and return its URL (…/v1) once it answers.

    `server_class` replaces SafetyServer as the class of the replicas. Raises UserError, and leaves nothing
    running, if the model or port is not usable, if Ray Serve already runs, or if the engine does not start.
    """
    check_model(config)
    check_port(config.host, config.port)
    from ray import serve

    quiet()
    cluster.start(needs_cpus=False)
    if _serve_actors():
        raise UserError(
            "Ray Serve already runs on this cluster; stop it, or use `serve deploy` to add an application."
        )
    in_replica = answers_in_replica(config)
    app = build_app(replace(config, http="replica" if in_replica else "proxy"), server_class)
    try:
        if in_replica:
            serve.start(proxy_location="Disabled")
        else:
            serve.start(http_options={"host": config.host, "port": config.port})
        prefix = None if in_replica else config.route_prefix
        serve.run_many(
            [serve.RunTarget(app, name=APP, route_prefix=prefix)], wait_for_applications_running=False
        )
        _wait_until_running(config.start_timeout_s)
        host = "127.0.0.1" if config.host in ("0.0.0.0", "::") else config.host
        if in_replica:
            check_listens_here(host, config.port)
    except BaseException:
        serve.shutdown()
        raise
    return f"http://{host}:{config.port}{config.route_prefix.rstrip('/')}/v1"


def answers_in_replica(config: ServeConfig) -> bool:
    """Return whether the replica answers HTTP itself, on the cluster that this process has joined."""
    if config.http != "auto":
        return config.http == "replica"
    name, number = needed_resource(config)
    fits = cluster.resources().get(name, 0) >= number  # else an autoscaling cluster adds a machine
    return config.fits_one_replica() and fits and cluster.alive_nodes() == {cluster.this_node()}


def stop(config: ServeConfig, timeout_s: float = 60.0) -> None:
    """Stop the endpoint that `start` started, after its running answers; Ray itself keeps running.

    Running answers have `drain_s` seconds. Afterwards another endpoint can be started: this function waits
    for processes that Ray Serve kills without waiting. Raises UserError if some still run after `timeout_s`.
    """
    from ray import serve

    serve.delete(APP, _blocking=False)  # a shutdown alone would close the connections of running answers
    end = time.monotonic() + config.drain_s + timeout_s
    while APP in serve.status().applications and time.monotonic() < end:
        time.sleep(0.2)
    serve.shutdown()
    end = time.monotonic() + timeout_s
    while remaining := _remaining(config):
        if time.monotonic() > end:
            raise UserError(f"the endpoint has not ended within {timeout_s:g} s: {remaining}")
        time.sleep(0.1)


def _remaining(config: ServeConfig) -> str:
    """Describe what still runs of an endpoint that ends; empty if nothing does."""
    if names := _serve_actors():
        return f"still running: {', '.join(names)}."
    try:
        check_port(config.host, config.port)
    except UserError as error:
        return str(error)
    return ""


def _serve_actors() -> list[str]:
    """Return the names of Ray Serve's actors on this cluster."""
    import ray

    actors = ray.util.list_named_actors(all_namespaces=True)
    return [actor["name"] for actor in actors if actor["namespace"] == "serve"]


def main(argv: list[str] | None = None) -> None:
    """Serve in the foreground until Ctrl-C; exit with code 2 for a UserError."""
    try:
        config = load(ServeConfig, sys.argv[1:] if argv is None else argv)
        url = start(config)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        mistake = correctable(error)
        if mistake is None:
            raise
        print(f"error: {mistake}", file=sys.stderr)
        raise SystemExit(2) from None
    print(f"{config.model_id} is served at {url} (safety mode {config.mode}); Ctrl-C stops it", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # containers are stopped with SIGTERM
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        stop(config)


def check_port(host: str, port: int) -> None:
    """Raise UserError if no server can listen on `host` and `port`."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as error:
        raise UserError(
            f"port {port} on {host} cannot be used ({error.strerror}); choose another one with port=..."
        ) from error


def check_listens_here(host: str, port: int) -> None:
    """Raise UserError if Ray has started the replica that answers HTTP itself on another machine."""
    try:
        socket.create_connection((host, port), timeout=30).close()
    except OSError as error:
        raise UserError(
            f"http=replica: port {port} on {host} has no server ({error.strerror or error}): Ray has started "
            "the engine on another machine; use http=proxy."
        ) from error


def _wait_until_running(timeout_s: float) -> None:
    """Wait until the application runs; raise UserError with the reason if it fails or takes too long."""
    from ray import serve

    end, reason = time.monotonic() + timeout_s, "it is still starting"
    while time.monotonic() < end:
        app = serve.status().applications.get(APP)
        if app is not None:
            if app.status == "RUNNING":
                return
            messages = [d.message for d in app.deployments.values() if d.message]
            reason = "\n".join(messages) or app.message or reason
            if app.status in ("DEPLOY_FAILED", "UNHEALTHY"):
                raise UserError(f"the endpoint did not start: {_reason(reason)}")
        time.sleep(0.5)
    raise UserError(f"the endpoint did not start within start_timeout_s={timeout_s:g}: {_reason(reason)}")


def _reason(message: str) -> str:
    """Return the line with the reason from a message of Ray Serve with tracebacks."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return next(
        (line.split(NOT_STARTED, 1)[1] for line in reversed(lines) if NOT_STARTED in line),
        (lines or ["no reason was given"])[-1],
    )


if __name__ == "__main__":
    main()
