"""The stage fit: invalid labels, splits and models."""

from __future__ import annotations

import pyarrow as pa
import pytest

from jobs.fit import FitConfig, fit_classifier
from safety_ray.classifier.encoder import packaged_folder
from safety_ray.classifier.training.rows import complete, split
from safety_ray.core import dataset
from safety_ray.core.errors import UserError


def test_fit_rejects_invalid_labels_and_splits(tmp_path) -> None:
    with pytest.raises(UserError, match="row 'a' has label 9"):
        complete([{"id": "a", "text": "t", "label": 9}], "x")
    with pytest.raises(UserError, match="row 'a' has label 3 and label_max 2"):
        complete([{"id": "a", "text": "t", "label": 3, "label_max": 2}], "x")
    with pytest.raises(UserError, match="1 training texts and 0 held-out texts"):
        split(complete([{"id": "a", "text": "t", "label": 1, "split": "train"}], "x"), 0, 0.2, 0)
    dataset.write_table(pa.table({"id": ["a"], "text": ["t"]}), str(tmp_path / "in" / "a.parquet"))
    with pytest.raises(UserError, match="no column 'label'"):
        fit_classifier(FitConfig(labelled=str(tmp_path / "in"), output=str(tmp_path / "out")))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoder": "nowhere/at-all"}, "'nowhere/at-all' cannot be loaded"),
        ({"max_tokens": 4096}, "max_tokens=4096 does not fit .*, which takes 8 to 512 tokens"),
        ({"classifier": str(packaged_folder())}, r"is a model \(BertModel\), but not a sequence classifier"),
    ],
)
def test_fit_checks_model_before_it_creates_output(tmp_path, settings, message) -> None:
    config = FitConfig(labelled=str(tmp_path), output=str(tmp_path / "out"), **settings)
    with pytest.raises(UserError, match=message):
        fit_classifier(config)
    assert not (tmp_path / "out").exists()


def test_fit_measures_on_sets_that_it_never_trains_on(tmp_path) -> None:
    labelled = [{"id": f"l{n}", "text": f"A calm text, number {n}.", "label": 0} for n in range(10)]
    dataset.write_table(pa.Table.from_pylist(labelled), str(tmp_path / "in" / "a.parquet"))
    config = FitConfig(
        labelled=str(tmp_path / "in"), measured=["stance"], per_source=40, per_family=0, windows=0,
        max_tokens=32, output=str(tmp_path / "out"),
    )  # fmt: skip
    record = fit_classifier(config)
    assert record["fitted_on"] == 8  # of the ten calm texts, two are held out
    assert record["measured_on"] == 2 + 40
    assert record["metrics"]["sources"]["stance"]["n"] == 40
    assert record["metrics"]["sources"]["stance"]["recall_at_3"] == 0  # it has never seen harm
