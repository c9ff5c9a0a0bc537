"""The classifier that is shipped with the package: what the setting `classifier` names by `default`."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from safety_ray.core import model_path
from safety_ray.core.artifact import Fingerprint
from safety_ray.core.errors import UserError

DEFAULT = "default"
"""The shipped classifier in settings and in `Classifier.load`; a folder of this name is `./default`."""
SETTING = (
    f"{DEFAULT}: the shipped classifier; or the folder of a finished fit, or the folder or hub id of a "
    "sequence classifier"
)
"""Help text of the setting `classifier`."""
TRUST = "run code that comes with the classifier or its encoder, if the classifier needs it"
"""Help text of the setting `trust_remote_code`."""
_CARD = "README.md"


def default_folder() -> Path:
    """Return the folder of the shipped classifier: classifier.json, head.safetensors and its README.md."""
    return Path(str(resources.files(__package__))) / DEFAULT


def is_default(classifier: str | Path) -> bool:
    """Return whether `classifier` names the shipped classifier: `default` or the empty string."""
    return isinstance(classifier, str) and classifier in ("", DEFAULT)


def absolute(classifier: str) -> str:
    """Return `classifier` as a name that is valid in any working directory."""
    path = Path(classifier)
    return classifier if is_default(classifier) or not path.exists() else str(path.absolute())


def as_input(classifier: str) -> dict[str, str]:
    """Return the classifier as an input of `artifact.begin`; {} for an id on the model hub.

    The contents of its files identify the shipped classifier; they are the same in each installation.
    """
    if not is_default(classifier):
        return model_path.as_input("classifier", classifier)
    return {"classifier": fingerprint(default_folder())}


def fingerprint(folder: Path) -> Fingerprint:
    """Return a hash of the files in `folder` except its card. Raises UserError if there are none."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _CARD)
    if not files:
        raise UserError(
            f"the shipped classifier is missing from '{folder}'; install safety_ray again, or set "
            "classifier to the folder of a finished fit."
        )
    return Fingerprint.of_files({path.relative_to(folder).as_posix(): path.read_bytes() for path in files})
