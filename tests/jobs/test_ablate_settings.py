"""Settings, plan and failures of the ablation, without any training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs.ablate import AblateConfig, Step, plan_steps, run_ablation
from safety_ray.core import artifact
from safety_ray.core.config import from_dict, load
from safety_ray.core.errors import DriverUnusable, UserError

DEMO, PAPER = "configs/ablate/demo.yaml", "configs/ablate/paper.yaml"


@pytest.fixture(scope="module")
def paper() -> list[Step]:
    return plan_steps(load(AblateConfig, [PAPER, "output=out"]), [7])


def test_ablate_demo_compares_all_arms_of_the_paper() -> None:
    config = load(AblateConfig, [DEMO])
    packed = {step.arm: step.config for step in plan_steps(config, [0]) if step.name == "pack"}
    assert {name: (c.tag_rate, len(c.raw_scores), c.recipes) for name, c in packed.items()} == {
        "raw": (0, 6, []),
        "score0": (0, 1, []),
        "rephrase": (0, 1, ["rephrase"]),
        "refuse": (0, 1, ["rephrase", "refuse"]),
        "moralize": (0, 1, ["rephrase", "refuse", "moralize"]),
        "tags": (0.05, 6, ["rephrase", "refuse", "moralize"]),
    }


def test_ablate_searches_only_models_that_know_the_tag(paper: list[Step]) -> None:
    made = {(step.arm, step.evaluates): step.config for step in paper if step.evaluates}
    searched = {key for key, config in made.items() if "safebeam" in config.decoders}
    assert searched == {
        ("tags", "base"), ("tags", "safety"), ("tags", "benign"),
        ("tags-late", "safety"), ("tags-late", "benign"),
    }  # fmt: skip
    assert all(config.decoders == ["beam"] for key, config in made.items() if key not in searched)
    assert {stage for (_, stage), config in made.items() if config.chat} == {"safety", "benign"}


def test_ablate_searches_no_model_without_unsafe_text() -> None:
    words = [DEMO, "output=out", "arms.safe.pack.raw_scores=[0]", "arms.safe.safety.tagged_share=0"]
    steps = [step for step in plan_steps(load(AblateConfig, words), [0]) if step.arm == "safe"]
    assert [step.config.decoders for step in steps if step.evaluates] == [["beam"], ["beam"]]
    assert not any(step.tagged for step in steps)


def test_ablate_stages_read_each_other_and_share_the_seed(paper: list[Step]) -> None:
    steps = {(step.arm, step.name): step.config for step in paper}
    late = steps["tags-late", "safety"]
    assert ("tags-late", "pretrain") not in steps
    assert late.model == steps["moralize", "pretrain"].output == "out/moralize/seed-7/pretrain"
    assert late.seed == steps["moralize", "pack"].seed == 7
    assert steps["tags-late", "benign"].model == late.output
    assert steps["raw", "evaluate-benign"].model == steps["raw", "benign"].output
    assert steps["tags-late", "evaluate-safety"].documents == ["out/moralize/seed-7/pack/heldout"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seeds=[]"], "must be distinct numbers"),
        (["seeds=[1,1]"], "must be distinct numbers"),
        (["pack.tag_rate=2"], "the section 'pack' of the arm 'tags': tag_rate=2"),
        (["arms.raw.pack.tag_rat=0"], "the section 'pack' of the arm 'raw': unknown setting 'tag_rat'"),
        (["arms.raw.pak.tag_rate=0"], "arms.raw: unknown setting 'pak"),
        (["arms.raw.pretrain.rows=x"], "'pretrain' of the arm 'raw': rows is set by ablate itself"),
        (["evaluate.decoders=[bem]"], "unknown decoder 'bem'"),
        (["arms.tags-late.pretrained=moralise"], "the nearest is 'moralize'"),
        (["arms.tags-late.pack.tag_rate=0"], "has no sections pack and pretrain"),
        (["arms.a/b.pack.tag_rate=0"], "arms: 'a/b' is no name of a folder"),
        (["only=[rav]"], "only: no arm is named 'rav'; the nearest is 'raw'"),
    ],
)
def test_ablate_rejects_invalid_settings(words: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        load(AblateConfig, [DEMO, *words])
    assert message in str(error.value)


def test_ablate_needs_an_arm() -> None:
    with pytest.raises(UserError, match="arms: no arm is named"):
        from_dict(AblateConfig, {"output": "x", "arms": {}})


def test_ablate_plan_shows_state_and_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished = tmp_path / "raw" / "seed-0" / "pack"
    finished.mkdir(parents=True)
    (finished / "record.json").write_text("{}")
    values: dict[str, Any] = {
        "output": str(tmp_path),
        "arms": {"raw": {}},
        "pack": {"scored": "x"},
        "plan": True,
    }
    assert run_ablation(from_dict(AblateConfig, {**values, "safety": {"chats": "c"}})) == {}
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == ["raw", "0", "pack", "finished", "skip"]
    assert lines[2] == ["raw", "0", "pretrain", "absent", "run"]
    assert lines[-1] == ["raw", "0", "evaluate-safety", "absent", "run"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw"]


@pytest.mark.parametrize(
    ("only", "expected"),
    [([], {"raw", "moralize", "tags-late"}), (["raw"], {"raw"}), (["tags-late"], {"moralize", "tags-late"})],
)
def test_ablate_only_runs_named_arms_and_those_they_finetune(
    only: list[str], expected: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arms: dict[str, Any] = {"raw": {}, "moralize": {}, "tags-late": {"pretrained": "moralize"}}
    values = {"output": str(tmp_path), "arms": arms, "pack": {"scored": "x"}, "safety": {"chats": "c"}}
    run_ablation(from_dict(AblateConfig, {**values, "only": only, "plan": True}))
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]} == expected


@pytest.mark.parametrize("only", [["one"], ["two"], []])
@pytest.mark.parametrize("stage", ["pack", "pretrain", "evaluate-base"])
def test_ablate_refuses_other_settings_of_an_earlier_stage(
    stage: str, only: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An arm that does not run is in the table too, so its stages need the present settings."""
    changed = {"pack": {"row_length": 64}, "pretrain": {"lr": 0.5}, "evaluate-base": {"prompt_words": 3}}[
        stage
    ]
    section = stage.removesuffix("-base")
    values: dict[str, Any] = {
        "output": str(tmp_path), "arms": {"one": None, "two": None}, "only": only,
        "pack": {"scored": f"{tmp_path}/absent"}, "pretrain": {}, "evaluate": {},
    }  # fmt: skip
    before = plan_steps(from_dict(AblateConfig, {**values, section: {**values[section], **changed}}), [0])
    earlier = next(step for step in before if (step.arm, step.name) == ("one", stage))
    artifact.begin(earlier.config.output, earlier.config, inputs={})
    with pytest.raises(UserError) as error:
        run_ablation(from_dict(AblateConfig, values))
    assert f"one/seed-0/{stage}' was made with other settings: {next(iter(changed))} (" in str(error.value)
    assert "stage pack" not in capsys.readouterr().out, "found before the first stage"


def test_ablate_failed_arm_names_itself_and_others_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arms: dict[str, Any] = {"one": None, "two": {"pack": {"scored": f"{tmp_path}/absent-two"}}}
    values = {"output": f"{tmp_path}/out", "arms": arms, "pack": {"scored": f"{tmp_path}/absent-one"}}
    with pytest.raises(UserError) as error:
        run_ablation(from_dict(AblateConfig, values))
    first, second = str(error.value).removesuffix(". The same command resumes.").split("; ")
    assert first.startswith("arm one, seed 0, stage pack: ")
    assert "absent-one" in first
    assert second.startswith("arm two, seed 0, stage pack: ")
    assert "stage pretrain" not in capsys.readouterr().out


def test_ablate_ends_after_an_error_that_makes_the_driver_unusable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lose_controller(config: Any) -> Any:
        raise DriverUnusable("the controller of the training ended.")

    monkeypatch.setattr("jobs.ablate.pack_documents", lose_controller)
    values = {"output": f"{tmp_path}/out", "arms": {"one": None, "two": None}, "pack": {"scored": "x"}}
    with pytest.raises(UserError, match=r"^arm one, seed 0, stage pack: the controller .* resumes\.$"):
        run_ablation(from_dict(AblateConfig, values))
    assert "arm two" not in capsys.readouterr().out
