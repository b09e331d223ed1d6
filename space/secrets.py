"""Passwords in URLs, which reach no message."""

from __future__ import annotations

import re

HIDDEN = "***"
_SECRET_NAMES = r"pass|pwd|secret|token|key|credential|signature"
# Up to the last @: a password with one that is not escaped is hidden whole. One may hold quotes, too.
_PASSWORD = re.compile(r"(://[^:/?#\s'\"]*:)\S*(?=@)")
_VALUE = re.compile(rf"([?&][^=&\s'\"]*(?:{_SECRET_NAMES})[^=&\s'\"]*=)[^&\s'\"]+", re.IGNORECASE)
# Where nothing but a URL stands, there is no doubt where it ends.
_PASSWORD_OF_URL = re.compile(r"(^[^/?#]*://[^:/?#]*:).*(?=@)", re.DOTALL)
_VALUE_OF_URL = re.compile(rf"([?&][^=&]*(?:{_SECRET_NAMES})[^=&]*=)[^&]+", re.IGNORECASE)


def without_passwords(text: str) -> str:
    """A text with `***` for passwords in the URLs that it holds, before their hosts or in their queries."""
    return _VALUE.sub(rf"\g<1>{HIDDEN}", _PASSWORD.sub(rf"\g<1>{HIDDEN}", text))


def url_without_passwords(url: str) -> str:
    """The same of one URL, whose passwords may hold blanks and quotes."""
    return _VALUE_OF_URL.sub(rf"\g<1>{HIDDEN}", _PASSWORD_OF_URL.sub(rf"\g<1>{HIDDEN}", url))


def passwords(url: str) -> list[str]:
    """What `url_without_passwords` hides of a URL."""
    patterns = (_PASSWORD_OF_URL, _VALUE_OF_URL)
    found = [match[0][len(match[1]) :] for pattern in patterns for match in pattern.finditer(url)]
    return [each for each in found if each != HIDDEN]
