"""Score the lines of a text file 0-5 with a harm classifier, the shipped one or another.

    python examples/score_a_file.py default texts.txt
    python examples/score_a_file.py runs/demo/fit texts.txt

Prints one line per text: its score, the probability of that score, and the text.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from safety_ray import Classifier, UserError


def score_lines(classifier: Classifier, lines: list[str]) -> list[str]:
    """Return one line of output per text."""
    predictions = classifier.predict(lines)
    return [
        f"{prediction.score}  {prediction.probs[prediction.score]:.2f}  {line}"
        for line, prediction in zip(lines, predictions, strict=True)
    ]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "classifier",
        help="default, the output of python -m jobs.fit, or a sequence classifier with 6 labels",
    )
    parser.add_argument("file", type=Path, help="a text file with one text per line")
    args = parser.parse_args(argv)
    try:
        classifier = Classifier.load(args.classifier)
        lines = [line for line in args.file.read_text().splitlines() if line.strip()]
    except (UserError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    print("\n".join(score_lines(classifier, lines)))


if __name__ == "__main__":
    main()
