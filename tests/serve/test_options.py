"""Request options, `--help`, the playground and the soak test read the registry of decoding modes."""

from __future__ import annotations

import dataclasses
import re

import pytest

from safety_ray.core.config import describe
from safety_ray.core.errors import UserError
from safety_ray.decode.modes import MODES, PARAMETERS
from serve.access import PAGE
from serve.options import Limits, SafetyOptions, parse_options
from serve.settings import ServeConfig

WITHOUT_CONTROL = {"prompt_threshold", "length_penalty", "explain"}
"""parameters that the playground's form does not have"""


def test_safety_options_have_all_parameters_and_defaults() -> None:
    fields = {field.name: field.default for field in dataclasses.fields(SafetyOptions)}
    assert fields.pop("mode") in MODES
    assert fields == {name: parameter.default for name, parameter in PARAMETERS.items()}


@pytest.mark.parametrize("mode", MODES)
def test_parse_options_accepts_only_parameters_of_mode(mode: str) -> None:
    for name, parameter in PARAMETERS.items():
        values = {"mode": mode, name: parameter.default}
        if name in MODES[mode].parameters:
            assert parse_options(values, SafetyOptions(), Limits()).mode == mode
        else:
            with pytest.raises(UserError, match=f"safety.{name} is a setting of mode .*, not of mode {mode}"):
                parse_options(values, SafetyOptions(), Limits())


def test_parse_options_names_allowed_modes() -> None:
    with pytest.raises(UserError, match="unknown safety mode 'kill'; choose from off, mask, stop, safebeam"):
        parse_options({"mode": "kill"}, SafetyOptions(), Limits())
    with pytest.raises(UserError, match="does not allow safety mode off; choose from mask, stop, safebeam"):
        parse_options({"mode": "off"}, SafetyOptions(), Limits(allow_off=False))


def test_serve_help_describes_all_modes() -> None:
    help_text = " ".join(describe(ServeConfig).split())  # lines are wrapped
    for mode in MODES.values():
        assert f"{mode.name}: {mode.summary}" in help_text


def test_playground_form_has_a_control_per_parameter() -> None:
    """The modes and their summaries come from GET /v1/safety; the form has an input for each parameter."""
    inputs = set(re.findall(r'<input[^>]* name="(\w+)"', (PAGE / "index.html").read_text()))
    assert set(PARAMETERS) - WITHOUT_CONTROL <= inputs
    script = (PAGE / "playground.js").read_text()
    assert "server.decoding" in script
    for mode in set(MODES) - {"off", "mask", "safebeam", "stop"}:  # defaults of the answers; Stop is a button
        assert f'"{mode}"' not in script, "playground.js must read the modes from the server"
