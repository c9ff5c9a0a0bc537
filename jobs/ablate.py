"""The paper's ablation: several models that differ in their data only, evaluated after each training stage.

    python -m jobs.ablate configs/ablate/reproduce.yaml plan=true
    python -m jobs.ablate configs/ablate/reproduce.yaml seeds=[0]

    <output>/<arm>/seed-<n>/<stage>/    output folders of pack, pretrain, safety, benign, evaluate-...
    <output>/README.md                  the table: rates with intervals, P(tag) and perplexity of each model
    <output>/metrics.json               the same numbers
    <output>/arms.png                   harmful answers by arm, before and after finetuning
    <output>/safe-beam.png              harmful answers with and without Safe Beam Search

An arm is a name and the settings that distinguish it from the other arms. Before the first stage starts, all
settings are checked and compared with those of stages that have run. A finished stage is skipped. If a stage
fails, the rest of this arm and seed is left out, the other arms run, and the same command resumes.
"""

from __future__ import annotations

import json
import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from jobs.evaluate import EvaluateConfig, evaluate_model
from jobs.finetune import FinetuneConfig, finetune_model
from jobs.pack import PackConfig, pack_documents
from jobs.pretrain import PretrainConfig, pretrain_model
from safety_ray.core import artifact, filesystem
from safety_ray.core.config import from_dict, setting
from safety_ray.core.errors import DriverUnusable, UserError, correctable, nearest
from safety_ray.evaluate import ablation, ablation_figure, ablation_page
from safety_ray.evaluate.ablation import BASE, BENIGN, SAFETY, Evaluation
from safety_ray.evaluate.decoders import BEAM, DECODERS, SAFEBEAM

Settings = dict[str, Any]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """Settings of one arm, which are added to those of all arms."""

    pretrained: str = setting("finetune the pretrained model of this other arm", default="")
    pack: dict[str, Any] = setting("settings of pack", factory=dict, of=PackConfig)
    pretrain: dict[str, Any] = setting("settings of pretrain", factory=dict, of=PretrainConfig)
    safety: dict[str, Any] = setting("settings of finetune", factory=dict, of=FinetuneConfig)
    benign: dict[str, Any] = setting("settings of finetune", factory=dict, of=FinetuneConfig)
    evaluate: dict[str, Any] = setting("settings of evaluate", factory=dict, of=EvaluateConfig)


@dataclass(frozen=True, kw_only=True, slots=True)
class AblateConfig:
    """Train and evaluate several models that differ in their data, and write one table and two figures."""

    output: str = setting("folder that holds one folder per arm and seed, the table and the figures")
    arms: dict[str, Any] = setting(
        "arms by name, each {pretrained, pack, pretrain, safety, benign, evaluate}: settings that are added "
        "to those of all arms; pretrained: the arm whose pretrained model is finetuned",
        of=dict[str, Arm],
    )
    seeds: list[int] = setting("seeds of packing and training; one model each", factory=lambda: [0])
    pack: dict[str, Any] = setting("settings of pack in all arms", factory=dict, of=PackConfig)
    pretrain: dict[str, Any] = setting("settings of pretrain in all arms", factory=dict, of=PretrainConfig)
    safety: dict[str, Any] = setting(
        "settings of the safety finetuning (see finetune); empty: no such stage",
        factory=dict,
        of=FinetuneConfig,
    )
    benign: dict[str, Any] = setting(
        "settings of the benign finetuning, which follows; empty: no such stage",
        factory=dict,
        of=FinetuneConfig,
    )
    evaluate: dict[str, Any] = setting(
        "settings of evaluate; documents are by default those that pack holds out",
        factory=dict,
        of=EvaluateConfig,
    )
    only: list[str] = setting(
        "arms to run, with those whose models they finetune; empty: all. The table has all that are finished",
        factory=list,
    )
    plan: bool = setting("print which stages are finished and which would run, then exit", default=False)

    def __post_init__(self) -> None:
        if not self.arms:
            raise UserError("arms: no arm is named; write for example arms.raw.pack.tag_rate=0.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"seeds={self.seeds}: must be distinct numbers, at least one, such as [0,1,2].")
        for name in self.only:
            if name not in self.arms:
                raise UserError(
                    f"only: no arm is named '{name}'; the nearest is '{nearest(name, list(self.arms))}'."
                )
        plan_steps(self, self.seeds[:1])  # the settings do not depend on the seed


@dataclass(frozen=True, slots=True)
class Step:
    """One stage of one arm and seed."""

    arm: str
    seed: int
    name: str
    config: Any
    run: Callable[[Any], Settings]
    evaluates: str = ""
    """the training stage whose model it evaluates; empty: no evaluation"""
    tagged: bool = False
    """whether that model was trained to predict the tag"""


def plan_steps(config: AblateConfig, seeds: list[int]) -> list[Step]:
    """Return the steps of all arms for `seeds`, in their order. Raises UserError for an invalid setting."""
    arms = {name: _arm(name, values, list(config.arms)) for name, values in config.arms.items()}
    for name, arm in arms.items():
        if arm.pretrained and (arm.pack or arm.pretrain or arms[arm.pretrained].pretrained):
            raise UserError(
                f"arms.{name}.pretrained={arm.pretrained}: an arm that finetunes the model of another arm "
                "has no sections pack and pretrain, and the other arm pretrains its own model."
            )
    ordered = sorted(arms, key=lambda name: bool(arms[name].pretrained))  # a model before its finetuning
    return [step for seed in seeds for name in ordered for step in _arm_steps(config, arms, name, seed)]


def _arm(name: str, values: Any, names: list[str]) -> Arm:
    if not _NAME.fullmatch(name):
        raise UserError(f"arms: '{name}' is no name of a folder; use letters, digits, '-', '_', '.' and '+'.")
    if values is not None and not isinstance(values, dict):
        raise UserError(f"arms.{name}: must be settings such as {{pack: {{tag_rate: 0}}}}, not {values!r}.")
    arm = from_dict(Arm, values or {}, where=f"arms.{name}")
    if arm.pretrained and (arm.pretrained not in names or arm.pretrained == name):
        others = [other for other in names if other != name] or ["another arm"]
        raise UserError(
            f"arms.{name}.pretrained={arm.pretrained}: no other arm has this name; the nearest is "
            f"'{nearest(arm.pretrained, others)}'."
        )
    return arm


def _arm_steps(config: AblateConfig, arms: dict[str, Arm], name: str, seed: int) -> list[Step]:
    """Return the steps of one arm and seed."""
    arm, base_name = arms[name], arms[name].pretrained or name
    folder, base = f"{config.output}/{name}/seed-{seed}", f"{config.output}/{base_name}/seed-{seed}"

    def make(cls: Any, section: str, owner: str, fixed: Settings, default: Settings | None = None) -> Any:
        where = f"the section '{section}' of the arm '{owner}'"
        values = _merge(getattr(config, section), getattr(arms[owner], section))
        conflicts = sorted(values.keys() & fixed.keys())
        if conflicts:
            raise UserError(f"{where}: {conflicts[0]} is set by ablate itself; remove it.")
        try:
            return from_dict(cls, {**(default or {}), **values, **fixed}, where=where)
        except UserError as error:
            raise UserError(str(error) if where in str(error) else f"{where}: {error}") from error

    pack = make(PackConfig, "pack", base_name, {"output": f"{base}/pack", "seed": seed})
    fixed = {"output": f"{base}/pretrain", "rows": pack.output, "seed": seed}
    pretrain = make(PretrainConfig, "pretrain", base_name, fixed)
    model, tagged = pretrain.output, pack.inserts_tags and pack.learn_tags

    def evaluation(stage: str) -> Step:
        fixed = {"model": model, "output": f"{folder}/evaluate-{stage}", "chat": stage != BASE}
        made = make(EvaluateConfig, "evaluate", name, fixed, {"documents": [f"{base}/pack/heldout"]})
        # The tokenizer of an arm without tags has the tag as well: all models have the same vocabulary.
        usable = [d for d in made.decoders or [BEAM, SAFEBEAM] if tagged or not DECODERS[d].needs_tag]
        made = replace(made, decoders=usable or [BEAM])
        return Step(name, seed, f"evaluate-{stage}", made, evaluate_model, stage, tagged)

    steps = [Step(name, seed, "pack", pack, pack_documents)] if base_name == name else []
    if steps:
        steps += [Step(name, seed, "pretrain", pretrain, pretrain_model), evaluation(BASE)]
    for stage in (SAFETY, BENIGN):
        if getattr(config, stage) or getattr(arm, stage):
            fixed = {"model": model, "output": f"{folder}/{stage}", "seed": seed}
            finetune = make(FinetuneConfig, stage, name, fixed)
            model = finetune.output
            tagged = tagged or (stage == SAFETY and finetune.tagged_share * finetune.tag_rate > 0)
            steps += [Step(name, seed, stage, finetune, finetune_model), evaluation(stage)]
    if not steps:
        raise UserError(f"arms.{name}.pretrained: there is no finetuning; give the section safety or benign.")
    return steps


def _merge(common: Settings, own: Settings) -> Settings:
    """Return the settings of all arms with those of one arm, section by section."""
    nested = {key for key in common.keys() & own.keys() if isinstance(common[key], dict)}
    both = {key: _merge(common[key], own[key]) for key in nested if isinstance(own[key], dict)}
    return {**common, **own, **both}


def run_ablation(config: AblateConfig) -> Settings:
    """Run the steps that are not finished. Returns and writes the metrics of all finished evaluations."""
    everything = plan_steps(config, config.seeds)
    steps = [step for step in everything if step.arm in _selected(config)]
    if config.plan:
        print(plan_table(steps))
        return {}
    for step in everything:  # before hours of work; arms that do not run are in the table as well
        artifact.check_settings(step.config.output, step.config)
    failed: dict[tuple[str, int], str] = {}
    for number, step in enumerate(steps, start=1):
        if (step.arm, step.seed) in failed:
            continue
        what = f"arm {step.arm}, seed {step.seed}, stage {step.name}"
        finished = artifact.is_finished(step.config.output)
        print(f"[{number}/{len(steps)}] {what}{': finished earlier, skipped' * finished}", flush=True)
        try:
            step.run(step.config)
        except Exception as error:
            mistake = correctable(error)
            if mistake is None:
                traceback.print_exc()
            failed[step.arm, step.seed] = f"{what}: {str(mistake or repr(error)).splitlines()[0].rstrip('.')}"
            print(f"failed: {failed[step.arm, step.seed]}", flush=True)
            if isinstance(mistake, DriverUnusable):
                break
    values = _write(config, everything)
    if failed:
        raise UserError(f"{'; '.join(failed.values())}. The same command resumes.")
    return values


def _selected(config: AblateConfig) -> set[str]:
    """Return the names of the arms to run."""
    names = config.only or list(config.arms)
    trained = {_arm(name, config.arms[name], list(config.arms)).pretrained for name in names}
    return {*names, *trained} - {""}


def _write(config: AblateConfig, steps: list[Step]) -> Settings:
    """Write the table and the figures of the evaluations that are finished."""
    done = [
        Evaluation(step.arm, step.evaluates, step.seed, step.config.output, step.tagged)
        for step in steps
        if step.evaluates and artifact.is_finished(step.config.output)
    ]
    if not done:
        return {}
    values = ablation.summarize(done, list(config.arms))
    fs, root = filesystem.find(config.output)
    fs.pipe_file(f"{root}/metrics.json", json.dumps(values, indent=1, ensure_ascii=False).encode())
    fs.pipe_file(f"{root}/README.md", ablation_page.readme(values).encode())
    fs.pipe_file(f"{root}/arms.png", ablation_figure.plot_arms(values))
    fs.pipe_file(f"{root}/safe-beam.png", ablation_figure.plot_search(values))
    print(f"table: {config.output}/README.md")
    return values


def plan_table(steps: list[Step]) -> str:
    """Format which steps are finished and what a run would do."""
    width = max(len(step.arm) for step in steps) + 2
    lines = [f"{'arm':<{width}}{'seed':<6}{'stage':<18}{'state':<12}this run"]
    for step in steps:
        state = artifact.state(step.config.output)
        action = artifact.ACTIONS[state]
        lines.append(f"{step.arm:<{width}}{step.seed:<6}{step.name:<18}{state:<12}{action}")
    return "\n".join(lines)


if __name__ == "__main__":
    from jobs.cli import main

    main("ablate")
