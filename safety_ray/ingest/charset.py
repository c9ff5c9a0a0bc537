"""Decode the body of a page: by what its bytes show first, then by what the server and the page declare.

Servers declare their default charset for everything, and one damaged byte makes a page invalid in its own
charset. So a charset is not rejected for single errors, and a declaration is not followed against the text.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import lru_cache

import py3langid
from charset_normalizer import from_bytes
from w3lib.encoding import (
    html_body_declared_encoding,
    http_content_type_encoding,
    read_bom,
    to_unicode,
)

_SAMPLE = 1 << 14
"""bytes of text by which a legacy charset is chosen"""
_UTF16_SAMPLE = 1 << 12
_LANGUAGE_SAMPLE = 2_000
_MIN_LETTERS = 8
"""letters that are enough to choose another charset than the declared one"""
_MAX_DAMAGE = 0.05
"""share of undecodable characters above which a text is not in a charset"""
_MULTIBYTE = {"cp949": (0xB0, 0xC8), "euc_jp": (0xB0, 0xCF), "cp932": (0xB0, 0xCF), "gb18030": (0xB0, 0xD7),
              "big5hkscs": (0xA4, 0xC6)}  # fmt: skip
"""Charsets of East Asia with the rows of the characters in common use, in EUC-JP for those of Japan. Korean
comes first because its rows are a part of those of Chinese."""
_READABLE, _READABLE_DECLARED = 0.85, 0.7
"""least shares of characters that are readable in UTF-16, undeclared and declared"""
_ROWS = 6
"""rows of 256 characters in which nearly all characters of a text are, except those of East Asia"""
_BLANKS = frozenset(chr(a << 8 | b) for a in b" \t\n\r" for b in b" \t\n\r")
"""indented text of other charsets, read as UTF-16"""
_KANA = frozenset(map(chr, range(0x3041, 0x3100)))
_OTHER_SCRIPTS = (
    "cp1251", "koi8-r", "koi8-u", "iso8859-5", "cp1253", "iso8859-7", "cp1255", "cp1256", "iso8859-6", "cp874"
)  # fmt: skip
_LATIN = {
    "cp1250": {"bs", "cs", "hr", "hu", "pl", "ro", "sk", "sl"},
    "cp1254": {"az", "tr"},
    "cp1257": {"et", "lt", "lv"},
    "cp1258": {"vi"},
}
"""Languages of the charsets for Latin letters; all others are written in cp1252."""
_NOT_ASCII = bytes(range(0x80, 0x100))
_CONTROLS = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]+")
_WORD = re.compile(rb"[A-Za-z\xc0-\xff]+")


def to_text(body: bytes, content_type: str = "") -> str:
    """Decode a page; what cannot be decoded becomes U+FFFD.

    The charset is that of the byte order mark, else UTF-16 if the body is readable in it, else UTF-8 if the
    body is valid or damaged UTF-8, else the first declared one (by the server, by the page) that the text
    does not contradict, else a guess. Other text is hardly ever UTF-8 by chance, so UTF-8 precedes the
    declared charset. Encodings of 7 bits are valid UTF-8, so their declaration precedes.
    """
    encoding, mark = read_bom(body)
    if encoding is not None and mark is not None:
        return to_unicode(body[len(mark) :], encoding)
    names = (http_content_type_encoding(content_type), html_body_declared_encoding(body))
    declared = [name for name in names if name is not None]
    if (encoding := _utf16(body, declared)) is not None:
        return to_unicode(body, encoding)
    if declared and declared[0].startswith(("iso2022", "hz")):
        return to_unicode(body, declared[0])
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        truncated = error.start >= len(body) - 3  # inside a character
    text = body.decode("utf-8", "replace")
    if truncated or _is_damaged_utf8(body, text):
        return text
    return to_unicode(body, _legacy([name for name in declared if _is_legacy(name)], body))


def _utf16(body: bytes, declared: list[str]) -> str | None:
    """Return the byte order of UTF-16, if its characters are readable in one.

    About a twentieth of its bytes or more are control characters, which text of other charsets lacks.
    """
    sample = body[:_UTF16_SAMPLE]
    controls = len(sample) - len(_CONTROLS.sub(b"", sample))
    is_declared = any(name.startswith("utf-16") for name in declared) and (controls or not _is_utf8(body))
    if is_declared or controls > len(sample) / 100:
        readable = {name: _readable(sample, name) for name in ("utf-16-le", "utf-16-be")}
        order = max(readable, key=lambda name: readable[name])
        share, number = readable[order]
        if (is_declared and share >= _READABLE_DECLARED) or (number >= _MIN_LETTERS and share >= _READABLE):
            return order
    return _order_of_zeros(body) if b"\0" in body else None


def _readable(sample: bytes, name: str) -> tuple[float, int]:
    """Return the share and the number of readable characters of a text in UTF-16.

    Characters of East Asia must be in common use in one language, and all others in a few rows. Symbols from
    U+2000 on count neither way: they are seldom, and ASCII's spaces and punctuation marks read as such.
    """
    unreadable, rows, letters = 0, Counter[int](), Counter[str]()
    for character in sample[: len(sample) // 2 * 2].decode(name, "surrogatepass"):
        kind = unicodedata.category(character)
        if character in _BLANKS or (kind in ("Cc", "Cn", "Co", "Cs") and character not in "\t\n\f\r"):
            unreadable += 1
        elif "\u3400" <= character < "\ufb00":
            letters[character] += 1
        elif character < "\u2000" or character >= "\ufb00" or "\u3000" <= character < "\u3100":
            rows[ord(character) >> 8] += 1
    common = (sum(letters[letter] for letter in letters.keys() & _common(name)) for name in _MULTIBYTE)
    number = sum(count for _, count in rows.most_common(_ROWS)) + max(common)
    return number / max(unreadable + rows.total() + letters.total(), 1), number


def _order_of_zeros(body: bytes) -> str | None:
    """Return the byte order of UTF-16: spaces, digits and markup have a zero byte always on the same side."""
    first, second = body[0::2].count(0), body[1::2].count(0)
    if max(first, second) < max(4, len(body) / 200) or min(first, second) > max(first, second) / 10:
        return None
    if len(_CONTROLS.sub(b"", body)) > 0.9 * len(body) and _is_utf8(body):  # text with some zero bytes
        return None
    return "utf-16-be" if first > second else "utf-16-le"


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _is_damaged_utf8(body: bytes, text: str) -> bool:
    """Return whether valid sequences of several bytes outnumber the invalid bytes."""
    errors = text.count("\ufffd") - body.count(b"\xef\xbf\xbd")
    characters = len(text) - len(body.translate(None, _NOT_ASCII))
    return characters - errors >= errors


def _is_legacy(name: str) -> bool:
    """Return whether a declared name is a charset of one or two bytes; Python's codecs have others."""
    try:
        return not name.startswith("utf") and isinstance(to_unicode(b"a\xe9 ", name), str)
    except (LookupError, ValueError):  # base64, undefined, ...
        return False


def _legacy(declared: list[str], body: bytes) -> str:
    """Return the charset of a body that is not UTF-8."""
    runs = [run for run in re.split(rb"[<>\r\n]", body) if not run.isascii()]
    sample = b"\n".join(runs)[:_SAMPLE]
    for name in _MULTIBYTE:
        if _common_share(sample, name) > 0.85:
            return name
    declared = [name for name in declared if _fits(sample, name)]
    if declared and (declared[0] in _MULTIBYTE or sum(byte > 0x7F for byte in sample) < _MIN_LETTERS):
        return declared[0]
    words = b"".join(word for word in _WORD.findall(sample) if not word.isascii())
    letters = sum(byte >= 0xC0 for byte in words)
    if letters >= _MIN_LETTERS and letters > 0.6 * len(words):
        return _other_script(sample, declared)
    return _latin(sample, declared, letters)


def _latin(sample: bytes, declared: list[str], letters: int) -> str:
    """Return the charset of a text of Latin letters: the declared one, unless it is the servers' default."""
    if declared and declared[0] not in ("cp1252", *_OTHER_SCRIPTS):
        return declared[0]
    # Most letters are ASCII, so that the language can be identified in another charset as well.
    seen = {_language(sample, name) for name in declared[:1]}
    encoding = next((name for name in _LATIN if seen | {_language(sample, name)} <= _LATIN[name]), "cp1252")
    controls = sum(0x80 <= byte < 0xA0 for byte in sample)  # in ISO 8859; letters and quotes in cp1250
    return "iso8859-2" if encoding == "cp1250" and controls <= letters / 50 else encoding


def _other_script(sample: bytes, declared: list[str]) -> str:
    """Return the charset in which a text without Latin letters is the most plausible text."""
    scores = dict.fromkeys([*declared, *_OTHER_SCRIPTS], 0.0)
    for name in scores:
        if _fits(sample, name):
            repaired = sample.decode(name, "ignore").encode(name)
            match = from_bytes(
                repaired, cp_isolation=[name], preemptive_behaviour=False, enable_fallback=False
            ).best()
            if match is not None:
                scores[name] = 1 + match.coherence - match.chaos - (1 - len(repaired) / len(sample))
    return max(scores, key=lambda name: scores[name])


def _language(sample: bytes, name: str) -> str:
    return str(py3langid.classify(sample[:_LANGUAGE_SAMPLE].decode(name, "replace"))[0])


def _fits(sample: bytes, name: str) -> bool:
    """Return whether a text has no more undecodable characters in a charset than damage explains."""
    text = sample.decode(name, "replace")
    characters = sum(character > "\x7f" for character in text)
    return text.count("\ufffd") <= max(2, characters * _MAX_DAMAGE)


def _common_share(sample: bytes, name: str) -> float:
    """Return the share of letters that are in common use in the languages of a multi-byte charset."""
    text = sample.decode(name, "replace")
    letters = [letter for letter in text if letter > "\x7f" and letter.isalpha()]
    if len(letters) < _MIN_LETTERS or not _fits(sample, name):
        return 0.0
    if name in ("euc_jp", "cp932") and sum(letter in _KANA for letter in letters) < len(letters) / 10:
        return 0.0
    common = _common(name)
    return sum(letter in common for letter in letters) / len(letters)


@lru_cache
def _common(name: str) -> frozenset[str]:
    """Return the characters in common use of a multi-byte charset."""
    first, last = _MULTIBYTE[name]
    codec = {"gb18030": "gb2312", "big5hkscs": "big5", "cp949": "euc_kr", "cp932": "euc_jp"}.get(name, name)
    pairs = (bytes((row, cell)) for row in range(first, last + 1) for cell in range(0x40, 0xFF))
    characters = {pair.decode(codec, "ignore") for pair in pairs if codec == "big5" or pair[1] >= 0xA1}
    return frozenset(characters) | (_KANA if codec == "euc_jp" else frozenset())
