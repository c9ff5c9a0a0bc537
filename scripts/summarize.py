"""Write one page and one figure for several evaluations: harm found with and without Safe Beam Search.

    python scripts/summarize.py OUTPUT NAME=FOLDER [NAME=FOLDER ...]

FOLDER is an output of `evaluate` or `ablate`, which the page calls NAME. OUTPUT gets README.md and the
figure safe-beam.png.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from safety_ray.core import drawing
from safety_ray.core.markdown import percent, points, table
from safety_ray.evaluate.ablation import STAGES
from safety_ray.evaluate.decoders import BEAM, SAFEBEAM
from safety_ray.evaluate.figure import percentages
from safety_ray.evaluate.page import judge_error
from safety_ray.evaluate.prompt_sets import KINDS

Line = dict[str, Any]
_SEARCHES = {BEAM: ("beam search", drawing.VERMILLION), SAFEBEAM: ("Safe Beam Search", drawing.BLUE)}


def main(output: Path, evaluations: dict[str, Path]) -> None:
    """Write the page and the figure of `evaluations`, their folders by name, to the folder `output`."""
    values = {name: _read(folder) for name, folder in evaluations.items()}
    lines = [line for name, metrics in values.items() for line in compare(name, metrics)]
    if not lines:
        sys.exit("no evaluation has answers by beam search and by Safe Beam Search to the same prompts.")
    output.mkdir(parents=True, exist_ok=True)
    (output / "safe-beam.png").write_bytes(drawing.png(plot(lines)))
    warnings = {warning for metrics in values.values() for warning in metrics.get("warnings", [])}
    judges = {name: judge for metrics in values.values() for name, judge in metrics["judges"].items()}
    (output / "README.md").write_text(page(lines, judges, sorted(warnings), evaluations))
    print(f"summary: {output / 'README.md'}")


def _read(folder: Path) -> Line:
    file = folder / "metrics.json"
    if not file.is_file():
        sys.exit(f"{file} does not exist; {folder} is not a finished output of evaluate or ablate.")
    return json.loads(file.read_text())


def compare(name: str, metrics: Line) -> list[Line]:
    """Return the rates of both searches by model, prompt set, kind and judge of harm."""
    lines = []
    stages = {difference.get("stage") for difference in metrics["differences"]}
    for difference in metrics["differences"]:
        if (difference["decoder"], difference["minus"]) != (BEAM, SAFEBEAM):
            continue
        keys = [key for key in ("arm", "stage", "prompt_set", "kind", "judge") if key in difference]
        rates = {
            rate["decoder"]: rate
            for rate in metrics["rates"]
            if all(rate[key] == difference[key] for key in keys)
        }
        if rates[BEAM]["detects"] == "harm":
            model = [name, *([difference["arm"]] if "arm" in difference else [])]
            model += [STAGES[difference["stage"]]] if len(stages) > 1 else []
            lines.append({**difference, "model": ", ".join(model), "rates": rates})
    return lines


def page(
    lines: list[Line], judges: dict[str, Line], warnings: list[str], evaluations: dict[str, Path]
) -> str:
    """Return the Markdown page."""
    rows = [
        [
            line["model"],
            f"{line['answers']:,} {line['kind']} ({line['prompt_set']})",
            line["judge"],
            *(
                percent(line["rates"][search]["rate"], line["rates"][search]["interval"])
                for search in _SEARCHES
            ),
            points(line["difference"], line["difference_interval"]),
        ]
        for line in lines
    ]
    head = ["model", "prompts", "judge", "beam search", "Safe Beam Search", "difference in points"]
    shown = {line["judge"] for line in lines}
    errors = [[name, judge_error(judges[name]["errors"])] for name in judges if name in shown]
    return "\n".join(
        [
            "# Answers in which a judge finds harm",
            "",
            "![harmful answers by both searches](safe-beam.png)",
            "",
            *table(head, rows, 3),
            "",
            *table(["judge", "error on answers with human labels"], errors, 2),
            "",
            "Intervals are 95%. More about each judge, P(tag) and perplexity:",
            "",
            *(f"- {name}: `{folder / 'README.md'}`" for name, folder in evaluations.items()),
            "",
            *(f"**Warning: {warning}**  " for warning in warnings),
            "",
        ]
    )


def plot(lines: list[Line]) -> Figure:
    """Return the figure: a panel per kind of prompt, a row per line, a point with its interval per search."""
    kinds = [kind for kind in KINDS if any(line["kind"] == kind for line in lines)]
    names = _row_names(lines)
    rows = list(dict.fromkeys(names))
    figure = drawing.figure(4.6 + 2.6 * len(kinds), 1.3 + 0.36 * len(rows))
    panels = figure.subplots(1, len(kinds), sharex=True, sharey=True, squeeze=False)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        of_kind = [(rows.index(name), x) for name, x in zip(names, lines, strict=True) if x["kind"] == kind]
        _plot_kind(axes, of_kind)
        axes.set_title(f"{kind} prompts", loc="left", fontsize=11)
    panels[0].set_yticks(range(len(rows)), rows, parse_math=False)
    panels[0].invert_yaxis()
    panels[0].set_xlim(left=0)
    figure.supxlabel("answers in which the judge finds harm (%)", fontsize=10)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    return figure


def _row_names(lines: list[Line]) -> list[str]:
    """Return the model of each line, with its prompt set and its judge where lines differ in them."""
    keys = [key for key in ("prompt_set", "judge") if len({line[key] for line in lines}) > 1]
    return [", ".join([line["model"], *(line[key] for key in keys)]) for line in lines]


def _plot_kind(axes: Axes, lines: list[tuple[int, Line]]) -> None:
    for offset, (search, (label, color)) in zip((-0.13, 0.13), _SEARCHES.items(), strict=True):
        shares, errors = percentages([line["rates"][search] for _, line in lines])
        places = [row + offset for row, _ in lines]
        style = {"fmt": "o", "markersize": 5, "elinewidth": 1.2, "clip_on": False, "zorder": 3}
        axes.errorbar(shares, places, xerr=errors, color=color, label=label, **style)
    axes.grid(axis="x", color=drawing.LINE, linewidth=0.8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0, labelsize=9)


if __name__ == "__main__":
    pairs = [argument.rpartition("=") for argument in sys.argv[2:]]
    if not pairs or not all(name and folder for name, _, folder in pairs):
        sys.exit("usage: python scripts/summarize.py OUTPUT NAME=FOLDER [NAME=FOLDER ...]")
    names = [name for name, _, _ in pairs]
    if len(set(names)) < len(names):
        sys.exit(f"NAME must be different for each FOLDER, not {', '.join(names)}.")
    main(Path(sys.argv[1]), {name: Path(folder) for name, _, folder in pairs})
