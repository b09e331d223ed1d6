"""Passwords in URLs, which reach no message."""

from __future__ import annotations

import re

HIDDEN = "***"
# Up to the last @: a password with one that is not escaped is hidden whole.
_PASSWORD = re.compile(r"(://[^:/?#\s'\"]*:)[^\s'\"]*(?=@)")
_SECRET_NAMES = r"pass|pwd|secret|token|key|credential|signature"
_VALUE = re.compile(rf"([?&][^=&\s'\"]*(?:{_SECRET_NAMES})[^=&\s'\"]*=)[^&\s'\"]+", re.IGNORECASE)


def without_passwords(text: str) -> str:
    """A text with `***` for passwords in the URLs that it holds, before their hosts or in their queries."""
    return _VALUE.sub(rf"\g<1>{HIDDEN}", _PASSWORD.sub(rf"\g<1>{HIDDEN}", text))


def passwords(url: str) -> list[str]:
    """What `without_passwords` hides of one URL."""
    found = [match[0][len(match[1]) :] for pattern in (_PASSWORD, _VALUE) for match in pattern.finditer(url)]
    return [each for each in found if each != HIDDEN]
