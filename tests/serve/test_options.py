"""Request options, `--help`, the playground and the soak test read the registry of decoding modes."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from types import SimpleNamespace
from typing import Any

import pytest

from safety_ray.compat.ray_llm import CompletionRequest
from safety_ray.core.config import describe
from safety_ray.core.errors import UserError
from safety_ray.decode.modes import MODES, PARAMETERS
from serve.access import PAGE
from serve.options import Limits, SafetyOptions, check_fields, options_in_xargs, parse_options
from serve.settings import ServeConfig

WITHOUT_CONTROL = {
    *("prompt_threshold", "length_penalty", "explain"),
    *("drop_by", "drop_threshold", "early_stopping"),
}
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


def test_options_in_xargs_restores_true_and_false() -> None:
    """vLLM's type of the field turns them into numbers."""
    for value in (True, False):
        request = CompletionRequest(model="m", prompt="a", vllm_xargs={"safety_explain": value})
        assert options_in_xargs(request.vllm_xargs or {}) == {"explain": value}
        assert isinstance(options_in_xargs(request.vllm_xargs or {})["explain"], bool)


ODD_VALUES: list[Any] = [5, -1, 0, 2.5, "", "a", [], ["a", 2], ["a"], [[1]], {}, True, float("nan"), 10**400]


@pytest.mark.parametrize("value", ODD_VALUES)
@pytest.mark.parametrize(
    "name", ["search", "safety_report", "safety_key", "safety_", "", "kv_transfer_params"]
)
def test_options_in_xargs_rejects_engine_arguments(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"vllm_xargs has no argument '{name}'; the nearest is 'safety_"):
        options_in_xargs({"safety_mode": "stop", name: value})


@pytest.mark.parametrize("value", [v for v in ODD_VALUES if v != {}])
@pytest.mark.parametrize("name", ["mode", *PARAMETERS])
def test_parse_options_rejects_or_accepts_any_value(name: str, value: Any) -> None:
    """Nothing but UserError is raised, and only a value of the parameter's type is accepted."""
    mode = next(mode for mode in MODES.values() if name == "mode" or name in mode.parameters)
    given = {"safety_mode": mode.name, f"safety_{name}": value}
    with contextlib.suppress(UserError):
        options = parse_options(options_in_xargs(given), SafetyOptions(), Limits())
        kinds = {int: (int,), float: (int, float), bool: (bool,), str: (str,)}[type(PARAMETERS[name].default)]
        assert type(getattr(options, name)) in kinds
        assert getattr(options, name) == value


def test_check_fields_rejects_fields_that_bypass_the_guard() -> None:
    check_fields(SimpleNamespace(kv_transfer_params=None, use_beam_search=False))
    mask = "return_assistant_tokens_mask"
    for name in ("kv_transfer_params", "ec_transfer_params", "use_beam_search", mask):
        with pytest.raises(UserError, match=f"{name} is not supported"):
            check_fields(SimpleNamespace(**{name: {"a": 1}}))


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
