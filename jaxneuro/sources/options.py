"""The values of readers' options, as `--option NAME=VALUE` gives them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from jaxneuro.errors import InputError


def choice(option: str, value: object, allowed: Sequence[str]) -> None:
    """Refuse a value of an option that is none of some.

    Raises:
      InputError: it is not allowed.
    """
    if value not in allowed:
        raise InputError(f"--option {option}: found '{value}'; expected one of {list(allowed)}")


def days(option: str, value: object) -> int:
    """Return an option's value as a number of days.

    Raises:
      InputError: it is no whole number from 0 on.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InputError(f"--option {option}: found '{value}'; expected a whole number of days, 0 or more")
    return value


def pattern(option: str, value: str) -> re.Pattern[str]:
    """Return an option's value as a pattern that heeds no case.

    Raises:
      InputError: it is no regular expression.
    """
    try:
        return re.compile(value, re.IGNORECASE)
    except re.error as e:
        raise InputError(f"--option {option}: found '{value}' ({e}); expected a regular expression") from e
