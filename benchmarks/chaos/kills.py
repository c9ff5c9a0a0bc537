"""Kill processes of a Ray cluster of two nodes on this machine at random, and replace the nodes."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress

import psutil

from tests.ray_head import DidNotStart, Node, add_node, announce_preemption, start_head

KINDS = {"worker": 8, "actor": 8, "node": 2, "preempted": 2, "driver": 3, "head": 1}
"""Kinds of kills, and how often each occurs relative to the others, if there is such a process."""
_CPUS = 4
_NOTICE_S = 5
_ACTOR = re.compile(r"(?!Read|Write)_?[A-Z]\w*(\.\w+)?|_?MapWorker.*")
_AGENT = re.compile(r"\w+Agent")
"""Ray's own processes of a node, without which its raylet ends: that would be the kill of a node."""


class Chaos:
    """A cluster of a head and a second node. A node that was killed joins again some time later."""

    def __init__(self, seed: int, kinds: Collection[str] = KINDS) -> None:
        self.random = random.Random(seed)
        self._shares = {kind: KINDS[kind] for kind in kinds}
        self.head = start_head(_CPUS)
        self.node: Node | None = None
        self._threads: list[threading.Thread] = []
        self._join()

    def kill(self, driver: subprocess.Popen[bytes]) -> tuple[str, str]:
        """Kill one process of a random kind. Returns the kind, or "" if there is none, and its title."""
        tasks, actors = self._busy()
        found = {"worker": tasks, "actor": actors}
        kinds = {kind: share for kind, share in self._shares.items() if found.get(kind, True)}
        if self.node is None:
            kinds = {kind: share for kind, share in kinds.items() if kind not in ("node", "preempted")}
        if not kinds:
            return "", ""
        kind, title = self.random.choices(list(kinds), list(kinds.values()))[0], ""
        if kind == "driver":
            driver.kill()
        elif kind == "head":
            self._restart_head()
        elif kind in ("node", "preempted"):
            self._replace_node(notice=kind == "preempted")
        else:
            process, title = self.random.choice(found[kind])
            with suppress(psutil.NoSuchProcess):
                process.kill()
        return kind, title

    def stop(self) -> None:
        """Stop both nodes."""
        for thread in self._threads:
            thread.join()
        if self.node:
            self.node.stop()
        self.head.stop()

    def _join(self) -> None:
        """Start the second node in the background, so that it joins late."""
        head = self.head

        def start() -> None:
            with suppress(DidNotStart):
                node = add_node(head, _CPUS, "second_node")
                if self.head is head:
                    self.node = node
                else:
                    node.stop()

        self._in_background(start)

    def _replace_node(self, notice: bool) -> None:
        """Kill the second node, if `notice` some seconds after Ray was told, and start another one."""
        head, node = self.head, self.node
        assert node is not None
        self.node = None

        def replace_it() -> None:
            if notice:
                with suppress(subprocess.CalledProcessError):  # the head may be killed meanwhile
                    announce_preemption(head, node, _NOTICE_S)
                time.sleep(_NOTICE_S)
            with suppress(ProcessLookupError):
                os.kill(node.raylet(), signal.SIGKILL)
            node.stop()
            if self.head is head:
                self._join()

        self._in_background(replace_it)

    def _restart_head(self) -> None:
        """Kill all processes of the head, and start another one with a second node of its own."""
        node, self.node = self.node, None
        self.head.kill()
        self.head = start_head(_CPUS)
        if node:
            node.stop()
        self._join()

    def _in_background(self, function: Callable[[], None]) -> None:
        thread = threading.Thread(target=function)
        self._threads.append(thread)
        thread.start()

    def _busy(self) -> tuple[list[tuple[psutil.Process, str]], list[tuple[psutil.Process, str]]]:
        """Return the processes of tasks and of actors, each with its title."""
        tasks, actors = [], []
        for node in filter(None, (self.head, self.node)):
            with suppress(psutil.Error, ProcessLookupError):
                for process in psutil.Process(node.raylet()).children(recursive=True):
                    title = _title(process)
                    if kind := kind_of(title):
                        (actors if kind == "actor" else tasks).append((process, title))
        return tasks, actors


def kind_of(title: str) -> str:
    """Return `worker` for the process of a task, `actor` for that of an actor, and "" for others."""
    name = title.removeprefix("ray::")
    if name == title or name.startswith("IDLE") or _AGENT.fullmatch(name):
        return ""
    return "actor" if _ACTOR.fullmatch(name) else "worker"


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.Error:
        return ""
