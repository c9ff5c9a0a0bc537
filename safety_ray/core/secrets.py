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

_USER_IN_URL = re.compile(r"(https?|wss?)://[^/?#\s@]+@|://[^/\s@]*:[^/\s@]+@", re.IGNORECASE)
"""The user of a website, which may be a token; elsewhere, as in ssh://git@host, a user with a password."""
_PARAMETER = re.compile(r"[?&#]([\w.-]+)=([^&#\s]+)")
_SIGNATURE = re.compile(r"sig|x-[a-z]+-(signature|credential)")
_SIGNERS = ("accesskeyid", "accessid", "keypairid")
"""Ends of the names of parameters that identify the signer, beside a parameter `Signature`."""
_LONG_KEY = re.compile(r"[^/.]{20,}")
"""A value of the parameter `key` that is not a word, a path or the name of a file."""
_SECRETS = (
    *("token", "secret", "secrets", "password", "passwords", "passwd", "passphrase"),
    *("authorization", "cookie", "apikey", "accesskey", "accountkey", "authkey", "privatekey", "secretkey"),
)
"""Ends of the names of secrets, without `-` and `_`: keys of settings, headers and parameters of URLs."""
_OTHER_TOKENS = (
    *("pagetoken", "nexttoken", "continuationtoken"),
    *("bostoken", "eostoken", "padtoken", "unktoken", "clstoken", "septoken", "masktoken", "tagtoken"),
    *("boitoken", "eoitoken", "imagetoken", "audiotoken", "videotoken"),
)
"""Ends of the names of positions in a listing, and of special tokens of tokenizers."""
_NOT_SECRET = re.compile(r"env:[A-Za-z_]\w*|file:.+|<.+>|\[[A-Z]+\]")
"""The location of a secret, and special tokens of tokenizers: `<pad>`, `[CLS]`."""
_MESSAGE_CHARACTERS = 300


def check(values: dict[str, Any]) -> None:
    """Raise UserError, which does not repeat the value, for a setting that is or contains a secret."""
    for key, value in _texts(values, ""):
        if _USER_IN_URL.search(value) or _has_secret_parameter(value):
            raise UserError(
                f"{key}: this URL contains a user, a password, a key or a signature, which would be written "
                "to records; set the credentials as environment variables or in the files of the storage's "
                "client."
            )
        if value and _is_secret(key.rsplit(".", 1)[-1]) and not _NOT_SECRET.fullmatch(value):
            raise UserError(
                f"{key}: a secret would be written to records; set it as an environment variable, such as "
                "HF_TOKEN, or name the variable with engine.api_key_env or a file with engine.api_key_file."
            )


def hide(message: str, secret: str) -> str:
    """Replace `secret` in a message of another program, which may repeat it, and shorten the message."""
    return (message.replace(secret, "***") if secret else message)[:_MESSAGE_CHARACTERS]


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _is_secret(name: str) -> bool:
    """Return whether a key, header or parameter has the name of a secret."""
    return _plain(name).endswith(_SECRETS) and not _plain(name).endswith(_OTHER_TOKENS)


def _has_secret_parameter(url: str) -> bool:
    parameters = _PARAMETER.findall(url)
    names = {_plain(name) for name, _ in parameters}
    if "signature" in names and any(name.endswith(_SIGNERS) for name in names):
        return True
    return any(
        _is_secret(name)
        or _SIGNATURE.fullmatch(name.lower())
        or (name.lower() == "key" and _LONG_KEY.fullmatch(value))
        for name, value in parameters
    )


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
