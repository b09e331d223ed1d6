from __future__ import annotations

import pytest

from space.secrets import passwords, url_without_passwords, without_passwords


@pytest.mark.parametrize(
    ("url", "shown", "hidden"),
    [
        ("postgresql://u:secret@h:5432/db", "postgresql://u:***@h:5432/db", ["secret"]),
        ("postgresql://u:se@cr/et@h/db", "postgresql://u:***@h/db", ["se@cr/et"]),
        ("postgresql://h/db?user=u&password=a&sslmode=b", "postgresql://h/db?user=u&password=***&sslmode=b", ["a"]),
        ("s3://bucket/x?X-Amz-Signature=a&Token=b", "s3://bucket/x?X-Amz-Signature=***&Token=***", ["a", "b"]),
        ("ftp://u:a@h/x?secret=b", "ftp://u:***@h/x?secret=***", ["a", "b"]),
        ("postgresql://u:it's\"so@h/db", "postgresql://u:***@h/db", ["it's\"so"]),
        ("simplecache::ftp://u:a@h/x", "simplecache::ftp://u:***@h/x", ["a"]),
        ("postgresql://u@h:5432/db", "postgresql://u@h:5432/db", []),
        ("sqlite:////folder/a:b@c/studies.db", "sqlite:////folder/a:b@c/studies.db", []),
    ],
)
def test_passwords_of_urls_are_hidden(url: str, shown: str, hidden: list[str]) -> None:
    assert without_passwords(url) == url_without_passwords(url) == shown
    assert passwords(url) == hidden
    assert without_passwords(f"no way to {url} from 'here'.") == f"no way to {shown} from 'here'."
    assert passwords(shown) == []


def test_passwords_of_one_url_may_hold_blanks() -> None:
    assert url_without_passwords("postgresql://u:my own@h/db") == "postgresql://u:***@h/db"
    assert url_without_passwords("postgresql://h/db?password=it's so&x=1") == "postgresql://h/db?password=***&x=1"
    assert passwords("postgresql://h/db?password=it's so") == ["it's so"]
