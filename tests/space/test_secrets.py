from __future__ import annotations

import pytest

from space.secrets import passwords, without_passwords


@pytest.mark.parametrize(
    ("url", "shown", "hidden"),
    [
        ("postgresql://u:secret@h:5432/db", "postgresql://u:***@h:5432/db", ["secret"]),
        ("postgresql://u:se@cr/et@h/db", "postgresql://u:***@h/db", ["se@cr/et"]),
        ("postgresql://h/db?user=u&password=a&sslmode=b", "postgresql://h/db?user=u&password=***&sslmode=b", ["a"]),
        ("s3://bucket/x?X-Amz-Signature=a&Token=b", "s3://bucket/x?X-Amz-Signature=***&Token=***", ["a", "b"]),
        ("ftp://u:a@h/x?secret=b", "ftp://u:***@h/x?secret=***", ["a", "b"]),
        ("postgresql://u@h:5432/db", "postgresql://u@h:5432/db", []),
        ("sqlite:////folder/a:b@c/studies.db", "sqlite:////folder/a:b@c/studies.db", []),
    ],
)
def test_passwords_of_urls_are_hidden(url: str, shown: str, hidden: list[str]) -> None:
    assert without_passwords(url) == shown
    assert passwords(url) == hidden
    assert without_passwords(f"no way to {url} from 'here'.") == f"no way to {shown} from 'here'."
    assert passwords(shown) == []
