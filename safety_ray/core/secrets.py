"""Keep secrets out of records, logs and events.

Settings are copied into config.json and record.json. So a key, a token or a password is never a setting: it
is an environment variable, which libraries read themselves or a setting names (`engine.api_key_env`), or the
content of a file that a setting names. It is read where it is used, because Ray shows runtime environments
and the arguments of operators.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from safety_ray.core.errors import UserError

_PASSWORD_IN_URL = re.compile(r"://[^/\s@]*:[^/\s@]+@")
_SIGNATURE_IN_URL = re.compile(
    r"[?&](X-Amz-Signature|X-Goog-Signature|sig|access_token|api_key)=", re.IGNORECASE
)
_SECRET_KEYS = {
    *("api_key", "apikey", "access_token", "auth_token", "hf_token", "secret", "secret_key", "password"),
    *("authorization", "x-api-key", "api-key"),
}
_MESSAGE_CHARACTERS = 300


def check(values: dict[str, Any]) -> None:
    """Raise UserError, which does not repeat the value, for a setting that is or contains a secret."""
    for key, value in _texts(values, ""):
        if _PASSWORD_IN_URL.search(value) or _SIGNATURE_IN_URL.search(value):
            raise UserError(
                f"{key}: this URL contains a password or a signature, which would be written to records; "
                "set the credentials as environment variables or in the files of the storage's client."
            )
        if value and key.rsplit(".", 1)[-1].lower() in _SECRET_KEYS:
            raise UserError(
                f"{key}: a secret would be written to records; set it as an environment variable, such as "
                "HF_TOKEN, or name the variable with engine.api_key_env or a file with engine.api_key_file."
            )


def hide(message: str, secret: str) -> str:
    """Replace `secret` in a message of another program, which may repeat it, and shorten the message."""
    return (message.replace(secret, "***") if secret else message)[:_MESSAGE_CHARACTERS]


def _texts(values: Any, key: str) -> Iterator[tuple[str, str]]:
    """Return (dotted key, value) of all texts in nested settings."""
    if isinstance(values, dict):
        for name, value in values.items():
            yield from _texts(value, f"{key}.{name}" if key else str(name))
    elif isinstance(values, list):
        for value in values:
            yield from _texts(value, key)
    elif isinstance(values, str):
        yield key, values
