"""Requests that end their engine, with a simulated engine: all its open requests fail together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from local_watch import HERE, LocalStarts

from safety_ray.llm.engine_deaths import Announced


class Dead(Exception):
    """The engine's process has ended."""


@dataclass
class Engine:
    """One process of an engine, which the prompts in `deadly` end; `most` is the most requests at a time."""

    deadly: set[str]
    open: int = 0
    most: int = 0
    dead: asyncio.Event = field(default_factory=asyncio.Event)

    async def generate(self, *, prompt: str) -> AsyncIterator[Any]:
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            yield SimpleNamespace(finished=False, text="")
            for _ in range(3):  # a deadly request takes a while until it ends the engine
                await asyncio.sleep(0)
                if self.dead.is_set():
                    raise Dead
            if prompt in self.deadly:
                self.dead.set()
                raise Dead
            yield SimpleNamespace(finished=True, text=prompt.upper())
        finally:
            self.open -= 1


class Job:
    """A batch of rows that is sent to one engine after another, until an engine has answered all of it."""

    def __init__(self, prompts: list[str], deadly: set[str]) -> None:
        self.prompts, self.deadly = prompts, deadly
        self.starts, self.engines = LocalStarts(), list[Engine]()
        self.answers: dict[int, str] = {}

    async def start(self, key: str) -> int:
        await asyncio.sleep(0)
        return self.starts.start(key, HERE)

    async def end(self, key: str) -> None:
        if not self.engines[-1].dead.is_set():  # a dead process ends nothing
            self.starts.end(key)

    async def ask(self, announced: Announced, row: int) -> None:
        try:
            async for output in announced(prompt=self.prompts[row]):
                if output.finished:
                    self.answers[row] = output.text
                    return
        except ValueError as error:
            self.answers[row] = str(error)

    async def run(self) -> None:
        while len(self.answers) < len(self.prompts):
            engine = Engine(self.deadly)
            self.engines.append(engine)
            announced = Announced(engine.generate, self.start, self.end, Dead)
            self.answers = {}  # Ray repeats a whole batch
            tasks = [asyncio.create_task(self.ask(announced, row)) for row in range(len(self.prompts))]
            ended = asyncio.create_task(engine.dead.wait())
            await asyncio.wait(
                [ended, asyncio.gather(*tasks, return_exceptions=True)], return_when="FIRST_COMPLETED"
            )
            for task in [*tasks, ended]:  # the process ends with its engine
                task.cancel()
            await asyncio.gather(*tasks, ended, return_exceptions=True)


def run(prompts: list[str], deadly: set[str]) -> Job:
    job = Job(prompts, deadly)
    asyncio.run(asyncio.wait_for(job.run(), 60))
    return job


def test_announced_rejects_only_the_requests_that_end_engines() -> None:
    prompts = [f"text {n}" for n in range(12)]
    job = run(prompts, {"text 4", "text 7", "text 9"})
    for n, prompt in enumerate(prompts):
        if n in (4, 7, 9):
            assert job.answers[n].startswith("its generation ended the engine 2 times")
        else:
            assert job.answers[n] == prompt.upper()
    assert len(job.engines) == 9, (
        "two die with all requests, two for each deadly request, one answers the rest"
    )
    assert job.engines[0].most == 12
    assert len(job.starts.starts) == 6, "of rejected requests only, together and alone"


def test_announced_runs_requests_together_without_deaths() -> None:
    job = run([f"text {n}" for n in range(12)], set())
    assert [engine.most for engine in job.engines] == [12]
    assert not job.starts.starts


def test_announced_runs_equal_requests_one_after_another() -> None:
    job = run(["same"] * 5 + ["other"], set())
    assert [job.answers[n] for n in range(6)] == ["SAME"] * 5 + ["OTHER"]
    assert [engine.most for engine in job.engines] == [2]
