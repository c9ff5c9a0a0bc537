"""The body of a request: JSON whose values every later part of the endpoint can process.

All checks of form are made here, once, before a request is sent to a replica: an odd value then never reaches
a tokenizer, a serializer or the engine.
"""

from __future__ import annotations

import json
import math
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from vllm.exceptions import VLLMClientError

from safety_ray.compat.ray_llm import plain_messages
from safety_ray.core.errors import UserError
from serve.errors import EndpointError

_MAX_DEPTH = 32
_INT64 = range(-(2**63), 2**63)

Body = TypeVar("Body", bound=BaseModel)


async def read_body(request: Request, kind: type[Body]) -> Body:
    """Return the body of `request` as a `kind`.

    Raises an error with HTTP status 400, or 415 for another type of content.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise EndpointError(415, "the body must be JSON with the header 'Content-Type: application/json'.")
    return validate(parse_json(await request.body()), kind)


def parse_json(data: bytes) -> dict[str, Any]:
    """Return the JSON object in `data` without the fields that are null, which have their defaults.

    This includes the fields of chat messages.

    Raises UserError for anything but a JSON object in UTF-8, for text that is not valid Unicode, for numbers
    that are not finite or not within 64 bits, and for deep nesting.
    """
    try:
        values = json.loads(
            data.decode(), parse_int=_parse_int, parse_float=_parse_float, parse_constant=_parse_float
        )
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UserError("the body has half of a surrogate pair; send valid Unicode text.") from error
    except RecursionError as error:
        raise UserError(_TOO_DEEP) from error
    except ValueError as error:
        raise UserError("the body is not valid JSON in UTF-8.") from error
    if not isinstance(values, dict):
        raise UserError('the body must be a JSON object, such as {"model": "...", "prompt": "..."}.')
    level: list[Any] = [values]
    for _ in range(_MAX_DEPTH):
        level = [child for value in level for child in _children(value)]
    if level:
        raise UserError(_TOO_DEEP)
    if isinstance(messages := values.get("messages"), list):
        values["messages"] = [_without_nulls(m) if isinstance(m, dict) else m for m in messages]
    return _without_nulls(values)


def _without_nulls(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


_TOO_DEEP = f"the body has more than {_MAX_DEPTH} levels of lists and objects; send fewer."


def _parse_int(digits: str) -> int:
    if len(digits) > 20 or int(digits) not in _INT64:
        raise UserError("the body has an integer of more than 64 bits; send a smaller one.")
    return int(digits)


def _parse_float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise UserError("the body has a number that is not finite; send a finite one.")
    return value


def _children(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def validate(values: dict[str, Any], kind: type[Body]) -> Body:
    """Return `values` as a `kind`.

    Raises ValidationError or VLLMClientError, or UserError for a value with which `kind` itself fails: vLLM's
    validators expect values of the right type.
    """
    try:
        return plain_messages(kind.model_validate(values))
    except (ValidationError, VLLMClientError):
        raise
    except Exception as error:
        name = min(values, key=lambda name: _severity(values, kind, without=name), default="body")
        raise EndpointError(400, f"'{name}' has a value of the wrong type.", name) from error


def _severity(values: dict[str, Any], kind: type[BaseModel], without: str) -> int:
    """Return 0 if `values` without one field are valid, 1 if they are refused, 2 if `kind` itself fails."""
    try:
        plain_messages(kind.model_validate({k: v for k, v in values.items() if k != without}))
    except (ValidationError, VLLMClientError):
        return 1
    except Exception:
        return 2
    return 0
