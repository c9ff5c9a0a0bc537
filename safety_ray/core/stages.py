"""Stages of a pipeline as objects: what they read, which of them run, and their states.

A stage reads the outputs of other stages, or paths outside of the pipeline:

    pack = Stage("pack", PackConfig, pack_documents, "token rows", {"scored": score, "rewritten": rewrite})
    pretrain = Stage("pretrain", PretrainConfig, pretrain_model, "model", {"rows": pack})
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from safety_ray.core import artifact
from safety_ray.core.errors import UserError, nearest


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of a pipeline. Its output folder is <output of the pipeline>/<name>."""

    name: str
    config: Any
    """config class"""
    run: Callable[[Any], dict[str, Any]]
    output_kind: str
    """short description of its output"""
    reads: dict[str, Reads] = field(default_factory=dict)
    """its settings that are outputs of other stages, or paths outside of the pipeline"""
    section: str = ""
    """the section of its settings; empty: that of its name"""

    def output(self, *folders: str) -> Output:
        """Return a folder inside the output folder of this stage."""
        return Output(self, "/".join(folders))

    def needs(self) -> list[Stage]:
        """Return the stages whose outputs it reads."""
        values = [value if isinstance(value, list) else [value] for value in self.reads.values()]
        read = [value for group in values for value in group if not isinstance(value, str)]
        return [value.stage if isinstance(value, Output) else value for value in read]

    def paths(self, root: str) -> dict[str, str | list[str]]:
        """Return the settings `reads` and `output` as paths. `root`: output folder of the pipeline."""
        return {"output": f"{root}/{self.name}"} | {
            key: [_path(item, root) for item in value] if isinstance(value, list) else _path(value, root)
            for key, value in self.reads.items()
        }


@dataclass(frozen=True, slots=True)
class Output:
    """A folder inside a stage's output folder."""

    stage: Stage
    folder: str


Reads = Stage | Output | str | list[Output]


def _path(value: Stage | Output | str, root: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Stage):
        return f"{root}/{value.name}"
    return f"{root}/{value.stage.name}/{value.folder}"


def find(name: str, stages: list[Stage], key: str) -> Stage:
    """Return the stage `name`, which the setting `key` names. Raises UserError if there is no such stage."""
    names = [stage.name for stage in stages]
    if name not in names:
        raise UserError(
            f"{key}: unknown stage '{name}', did you mean '{nearest(name, names)}'? "
            f"Stages: {', '.join(names)}."
        )
    return stages[names.index(name)]


def select(stages: list[Stage], first: str, last: str, only: list[str]) -> list[Stage]:
    """Return the stages from `first` to `last`, or those of `only`; all if nothing is given.

    Raises UserError for an unknown stage.
    """
    for key, names in (("from", [first]), ("until", [last]), ("only", only)):
        for name in filter(None, names):
            find(name, stages, key)
    if only:
        return [stage for stage in stages if stage.name in only]
    names = [stage.name for stage in stages]
    begin = names.index(first) if first else 0
    end = names.index(last) if last else len(names) - 1
    return stages[begin : end + 1]


def check_inputs(chosen: list[Stage], root: str) -> None:
    """Raise UserError if a stage to run reads the output of one that is neither finished nor to run."""
    for stage in chosen:
        for needed in stage.needs():
            if needed not in chosen and not artifact.is_finished(f"{root}/{needed.name}"):
                raise UserError(
                    f"{stage.name} reads {root}/{needed.name}, which is not finished; "
                    f"run the pipeline with until={needed.name} first."
                )


def plan_table(stages: list[Stage], chosen: list[Stage], root: str) -> str:
    """Format what each stage reads, its state, and what a run would do."""
    lines = [f"{'stage':<13} {'state':<12} {'this run':<10} reads"]
    for stage in stages:
        state = artifact.state(f"{root}/{stage.name}")
        action = artifact.ACTIONS[state] if stage in chosen else "-"
        outside = [value for value in stage.reads.values() if isinstance(value, str)]
        reads = ", ".join(dict.fromkeys([*(needed.name for needed in stage.needs()), *outside]))
        lines.append(f"{stage.name:<13} {state:<12} {action:<10} {reads}".rstrip())
    return "\n".join(lines)
