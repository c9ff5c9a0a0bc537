"""Published label sets against rows that were checked by hand; missing, changed and unreadable files."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.fit import FitConfig, fit_classifier
from safety_ray.classifier import datasets
from safety_ray.classifier.datasets.realtoxicity import level
from safety_ray.core.config import describe
from safety_ray.core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
CALM = dict.fromkeys(
    ("toxicity", "profanity", "insult", "sexually_explicit", "identity_attack", "threat", "severe_toxicity"),
    0.05,
)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({}, 0),
        ({"toxicity": 0.95, "profanity": 0.99}, 2),  # swearing without a target
        ({"toxicity": 0.4, "profanity": 0.9}, 1),
        ({"insult": 0.99, "toxicity": 0.6}, 2),
        ({"threat": 0.65}, 3),
        ({"sexually_explicit": 0.95}, 4),
        ({"identity_attack": 0.85, "toxicity": 0.8}, 4),
        ({"identity_attack": 0.85, "severe_toxicity": 0.75}, 5),
        ({"threat": 0.79, "severe_toxicity": 0.79}, 3),
    ],
)
def test_realtoxicity_level_returns_highest_matching_level(scores: dict[str, float], expected: int) -> None:
    assert level({**CALM, **scores}) == expected


def test_label_sets_load_matches_hand_checked_rows(real_data: Path) -> None:
    rows = {r["id"]: r for r in datasets.load(list(datasets.LABEL_SETS), str(real_data), 0, 0)}

    def levels(name: str) -> tuple[int, int]:
        return rows[name]["label"], rows[name]["label_max"]

    # "He's not leading shit": profanity 0.99, nothing else; "if yes, ... up": threat and severe toxicity.
    [swears] = [r for r in rows.values() if r["text"].startswith("\"He's not leading shit")]
    assert (swears["label"], swears["label_max"], swears["source"]) == (2, 2, "realtoxicity")
    [tesco] = [r for r in rows.values() if r["text"].startswith("Outrage as Tesco backs")]
    assert tesco["label"] == 4  # Perspective: identity_attack 0.89
    assert tesco["text"].endswith("gay festival... but drops support for cancer charity event")
    assert levels("davidson/0") == (0, 0)  # neither
    assert levels("davidson/1") == (1, 3)  # offensive
    assert "&" not in rows["davidson/0"]["text"].replace("& as", "")  # entities are characters
    assert levels("stormfront/12834493") == (3, 5)
    assert levels("stormfront/12843221") == (0, 2)
    assert levels("surge/1") == (2, 5)
    assert levels("beavertails/3") == (0, 1)
    [worst] = [r for r in rows.values() if r["text"].startswith("If you are going to kill someone, how")]
    assert (worst["source"], worst["label"], worst["label_max"]) == ("beavertails", 2, 5)
    assert levels("xstest/1") == (0, 2)
    assert rows["xstest/1"]["split"] == "heldout"
    assert levels("instructions/2/0") == (2, 5)
    assert not [r for r in rows.values() if r["source"] == "instructions" and "child" in r["text"].lower()]
    first = rows["wikipedia/00000/0000"]
    assert first["text"].startswith("Homarus gammarus, known as the European lobster or common lobster, is")
    assert not [
        r
        for r in rows.values()
        if r["source"] == "wikipedia" and ("@-@" in r["text"] or "<unk>" in r["text"])
    ]
    counts = Counter(r["source"] for r in rows.values())
    assert set(counts) == set(datasets.LABEL_SETS)
    assert counts["davidson"] > 24_000
    assert min(counts.values()) > 400


def test_label_sets_load_returns_texts_of_varied_length(real_data: Path) -> None:
    words = sorted(
        len(r["text"].split()) for r in datasets.load(["news", "web", "wikipedia"], str(real_data), 0, 0)
    )
    assert words[len(words) // 10] < 25
    assert words[9 * len(words) // 10] > 150


def test_label_sets_load_sample_depends_only_on_seed(real_data: Path) -> None:
    first, again, other = (datasets.load(["surge"], str(real_data), 50, seed) for seed in (0, 0, 1))
    assert len(first) == 50
    assert first == again
    assert {r["id"] for r in first} != {r["id"] for r in other}


def test_fit_leave_one_out_ranks_unseen_source(real_data: Path, tmp_path: Path) -> None:
    config = FitConfig(
        sources=["realtoxicity", "surge", "web"], data=str(real_data), per_source=60, l2=1e-3, windows=0,
        output=str(tmp_path / "fit"), leave_one_out=True, needles=5,
    )  # fmt: skip
    metrics = fit_classifier(config)["metrics"]
    unseen = metrics["leave_one_out"]
    assert unseen["surge"]["n"] == 60  # all of its texts are unseen, not the held-out ones alone
    assert unseen["surge"]["auroc"] > 0.7
    assert unseen["web"]["auroc"] is None  # calm text alone: nothing to rank
    assert unseen["mean_auroc"] == pytest.approx(
        (unseen["surge"]["auroc"] + unseen["realtoxicity"]["auroc"]) / 2, abs=1e-4
    )
    assert metrics["sources"]["realtoxicity"]["macro_f1"] is not None
    assert metrics["sources"]["surge"]["macro_f1"] is None  # it knows no levels
    assert (tmp_path / "fit" / "fit.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "fit" / "README.md").read_text()
    assert f"| surge | {metrics['sources']['surge']['n']} |" in page
    assert f"{unseen['surge']['auroc']:.3f}" in page


def test_label_sets_reject_unknown_and_repeated_names() -> None:
    with pytest.raises(UserError, match=r"unknown label set 'sruge'; the nearest is 'surge' \(choose from"):
        FitConfig(sources=["sruge"], output="x")
    with pytest.raises(UserError, match="'surge' is listed 2 times"):
        FitConfig(sources=["surge", "surge"], output="x")
    with pytest.raises(UserError, match="needs labelled \(a dataset\) or sources"):
        FitConfig(output="x")


def test_label_sets_report_missing_changed_and_unreadable_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    surge = datasets.LABEL_SETS["surge"]
    where = rf"Home: {surge.url}\. Copy toxicity_en.csv"
    config = FitConfig(sources=["surge"], data=str(tmp_path / "no"), output=str(tmp_path / "fit"))
    missing = rf"label set 'surge': the file '.*/no/toxicity/surge_toxicity_en.csv' does not exist\. {where}"
    with pytest.raises(UserError, match=missing):
        fit_classifier(config)
    assert not (tmp_path / "fit").exists()
    path = tmp_path / "toxicity" / "surge_toxicity_en.csv"
    path.parent.mkdir()
    path.write_text("text,is_toxic\nhello,Perhaps\n")
    with pytest.raises(UserError, match=rf"'surge': the file '{path}' has sha256 .*, expected 3bfc.*{where}"):
        datasets.load(["surge"], str(tmp_path), 0, 0)
    [file] = surge.files
    same = replace(file, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setitem(datasets.LABEL_SETS, "surge", replace(surge, files=(same,)))
    with pytest.raises(UserError, match=rf"'surge': .* cannot be read \(KeyError.'Perhaps'.*{where}"):
        datasets.load(["surge"], str(tmp_path), 0, 0)


@pytest.mark.parametrize("label_set", datasets.LABEL_SETS.values(), ids=lambda label_set: label_set.name)
def test_label_sets_declare_files_home_and_licence(label_set: datasets.LabelSet) -> None:
    if label_set.name == "stance":  # part of the package, and linked from docs/
        assert not label_set.files
        assert (ROOT / "docs" / label_set.url).is_file()
    else:
        assert label_set.files
        assert label_set.url.startswith("https://")
    assert label_set.licence
    assert label_set.how_to_get.count(". ") == 0
    assert label_set.how_to_get.endswith(".")
    for file in label_set.files:
        assert len(file.sha256 or "") == 64 or file.unchecked_because


def test_label_sets_in_docs_and_help_match_registry() -> None:
    page = (ROOT / "docs" / "score.md").read_text()
    _, rest = page.split("<!-- label sets: written by safety_ray.classifier.datasets.markdown -->\n")
    assert rest.split("\n<!-- end of label sets -->")[0] == datasets.markdown()
    text = " ".join(describe(FitConfig).split())
    assert datasets.summary() in text
    assert all(name in datasets.summary() for name in datasets.LABEL_SETS)


def test_label_set_added_as_one_file_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module of docs/how-to/add-a-label-set.md, run as it is printed there."""
    guide = (ROOT / "docs" / "how-to" / "add-a-label-set.md").read_text()
    module: dict[str, Any] = {}
    exec(guide.split("```python\n")[1].split("```")[0], module)
    label_set = module["LABEL_SET"]
    (tmp_path / "forum").mkdir()
    (tmp_path / "forum" / "posts.csv").write_text("id,text,label\n1,Thanks a lot!,ok\n2,Go away,rude\n")
    monkeypatch.setitem(datasets.LABEL_SETS, label_set.name, label_set)
    config = FitConfig(sources=["forum"], data=str(tmp_path), output="x")
    rows = datasets.load(config.sources, config.data, 0, 0)
    assert [(row["id"], row["label"], row["label_max"], row["source"]) for row in rows] == [
        ("forum/1", 0, 0, "forum"),
        ("forum/2", 1, 3, "forum"),
    ]
