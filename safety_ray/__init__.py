"""safety_ray: Safety Pretraining (arXiv 2504.16980) on Ray, from web documents to a served model.

The public API of the library, without Ray:

    Classifier              scores texts 0-5
    add_tag, tag_id         the harmfulness tag of a tokenizer
    safe_beam_search        Safe Beam Search on a transformers model (paper, section 4)
    safe_sample             sampling with a look-ahead for the tag
    Hypothesis              a result of both
    build_report_card       the numbers of a Data Safety Report Card (paper, section 3)
    UserError               the exception for mistakes in input or settings

Names are imported on first use, so that `import safety_ray` imports neither torch nor Ray. The stages are run
with `python -m jobs.<stage>`, and the endpoint with `python -m serve.app`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safety_ray.classifier.classifier import Classifier
    from safety_ray.core.errors import UserError
    from safety_ray.core.tag import add_tag, tag_id
    from safety_ray.decode.hf import safe_beam_search, safe_sample
    from safety_ray.decode.safebeam import Hypothesis
    from safety_ray.report.in_memory import build_report_card

__version__ = "0.1.0"
__all__ = [
    "Classifier",
    "Hypothesis",
    "UserError",
    "add_tag",
    "build_report_card",
    "safe_beam_search",
    "safe_sample",
    "tag_id",
]


def __getattr__(name: str) -> Any:
    """Import a public name on use (PEP 562)."""
    match name:
        case "Classifier":
            from safety_ray.classifier.classifier import Classifier

            return Classifier
        case "Hypothesis":
            from safety_ray.decode.safebeam import Hypothesis

            return Hypothesis
        case "UserError":
            from safety_ray.core.errors import UserError

            return UserError
        case "add_tag":
            from safety_ray.core.tag import add_tag

            return add_tag
        case "build_report_card":
            from safety_ray.report.in_memory import build_report_card

            return build_report_card
        case "safe_beam_search":
            from safety_ray.decode.hf import safe_beam_search

            return safe_beam_search
        case "safe_sample":
            from safety_ray.decode.hf import safe_sample

            return safe_sample
        case "tag_id":
            from safety_ray.core.tag import tag_id

            return tag_id
    raise AttributeError(f"module 'safety_ray' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
