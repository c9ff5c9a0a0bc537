"""The registry of decoding modes is consistent with itself, the search settings and the docs."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from safety_ray.decode.modes import MODES, PARAMETERS, PROCESSOR_MODES, Sampling, describe_modes
from safety_ray.decode.safebeam import Search, SearchSettings
from safety_ray.decode.safesample import SampleSearch

ROOT = Path(__file__).resolve().parent.parent.parent
DEFAULTS = {name: parameter.default for name, parameter in PARAMETERS.items()}


@pytest.mark.parametrize("mode", MODES.values(), ids=list(MODES))
def test_mode_declares_known_parameters_and_summary(mode) -> None:  # type: ignore[no-untyped-def]
    assert set(mode.parameters) <= set(PARAMETERS)
    assert mode.summary.endswith(".")
    assert mode.searches != (mode.name in PROCESSOR_MODES)


def test_every_parameter_belongs_to_a_mode() -> None:
    assert set(PARAMETERS) == {name for mode in MODES.values() for name in mode.parameters}


def test_parameter_defaults_equal_search_settings() -> None:
    for field in dataclasses.fields(SearchSettings):
        if field.name in PARAMETERS:
            assert field.default == PARAMETERS[field.name].default, field.name


def test_search_modes_make_their_searches() -> None:
    values = {**DEFAULTS, "beam_size": 3, "num_candidates": 5, "stride": 2}
    sampling = Sampling(temperature=0.5, top_p=0.9, seed=7)
    arguments = {"tag_id": 0, "eos_ids": {1}, "max_new_tokens": 9}
    beam = MODES["safebeam"].search(values, sampling, **arguments)
    assert type(beam) is Search
    assert beam.settings == SearchSettings(
        tag_id=0, eos_ids={1}, max_new_tokens=9, beam_size=3, num_candidates=5, stride=2
    )
    sample = MODES["sample"].search(values, sampling, **arguments)
    assert type(sample) is SampleSearch
    settings = sample.settings
    assert (settings.beam_size, settings.num_candidates, settings.stride) == (1, 5, 2)
    assert (settings.temperature, settings.top_p, settings.seed) == (0.5, 0.9, 7)
    with pytest.raises(ValueError, match="mode mask does not search"):
        MODES["mask"].search(values, sampling, **arguments)


def test_mode_rows_multiply_beams_and_candidates() -> None:
    values = {**DEFAULTS, "beam_size": 3, "num_candidates": 5}
    rows = {name: mode.rows(values) for name, mode in MODES.items()}
    assert rows == {"off": 1, "mask": 1, "stop": 1, "safebeam": 15, "sample": 5}


def test_describe_modes_is_json_ready() -> None:
    assert json.loads(json.dumps(describe_modes())) == describe_modes()
    assert list(describe_modes()) == list(MODES)


def test_docs_list_all_modes_and_parameters() -> None:
    """The tables of docs/serve.md have one row per mode and per parameter, with the registry's summary."""
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", (ROOT / "docs/serve.md").read_text(), re.MULTILINE)
    documented = dict(rows)
    for name, summary in [
        *((mode.name, mode.summary) for mode in MODES.values()),
        *((parameter.name, parameter.summary) for parameter in PARAMETERS.values()),
    ]:
        assert documented.get(name) == summary, f"docs/serve.md: the row of `{name}` must read: {summary}"
