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
    with pytest.raises(UserError, match="1 texts to fit on and 0 to measure on"):
        split(complete([{"id": "a", "text": "t", "label": 1, "split": "train"}], "x"), 0, 0.2, 0)
    dataset.write_table(pa.table({"id": ["a"], "text": ["t"]}), str(tmp_path / "in" / "a.parquet"))
    with pytest.raises(UserError, match="no column 'label'"):
        fit_classifier(FitConfig(labelled=str(tmp_path / "in"), output=str(tmp_path / "out")))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoder": "nowhere/at-all"}, "'nowhere/at-all' cannot be loaded"),
        ({"max_tokens": 4096}, "max_tokens=4096 does not fit .*, which takes 8 to 512 tokens"),
        ({"classifier": str(packaged_folder())}, r"is a model \(BertModel\), but no sequence classifier"),
    ],
)
def test_fit_checks_model_before_it_creates_output(tmp_path, settings, message) -> None:
    config = FitConfig(labelled=str(tmp_path), output=str(tmp_path / "out"), **settings)
    with pytest.raises(UserError, match=message):
        fit_classifier(config)
    assert not (tmp_path / "out").exists()
