"""Which plain YAML words are numbers, booleans or null: the core schema of YAML 1.2.2, section 10.3.2.

PyYAML follows YAML 1.1, where ``off`` is false, ``1e-4`` a string and ``012`` ten; editors follow
1.2.  A recipe must mean the same in both.
"""

from __future__ import annotations

import math
import re
from typing import Final

Scalar = str | int | float | bool | None

WORDS: Final[dict[str, bool | None]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
DECIMAL: Final = re.compile(r"[-+]?[0-9]+")
OCTAL: Final = re.compile(r"0o[0-7]+")
HEXADECIMAL: Final = re.compile(r"0x[0-9a-fA-F]+")
FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
NOT_FINITE: Final = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

#: Python refuses to turn longer digit strings into integers; no setting needs them.
LONGEST_NUMBER = 300


def resolve_plain(word: str) -> Scalar:
    """The value of an unquoted scalar.

    Raises:
        ValueError: a number that no recipe can hold (infinite, not a number, hundreds of digits).
    """
    if word in WORDS:
        return WORDS[word]
    if NOT_FINITE.fullmatch(word):
        raise ValueError(f"{word} is not a finite number")
    if not FLOAT.fullmatch(word) and not OCTAL.fullmatch(word) and not HEXADECIMAL.fullmatch(word):
        return word
    if len(word) > LONGEST_NUMBER:
        raise ValueError("this number has too many digits")
    if DECIMAL.fullmatch(word):
        return int(word, 10)
    if OCTAL.fullmatch(word):
        return int(word[2:], 8)
    if HEXADECIMAL.fullmatch(word):
        return int(word[2:], 16)
    value = float(word)
    if not math.isfinite(value):
        raise ValueError(f"{word} is too large a number")
    return value


def is_plain_string(word: str) -> bool:
    """Whether ``word`` stays this string when it is written without quotes, as far as types go."""
    try:
        return resolve_plain(word) == word
    except ValueError:
        return False
