"""How a WordPiece tokenizer changes text before it splits it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Normalization:
    """The switches of BERT's normaliser; a student must have those of its teacher, or it reads other words.

    Attributes:
        lower_case: whether text is lower-cased.
        strip_accents: whether accents are stripped; None, as nearly all tokenizers have it: where text is lower-cased.
            What comes to the same becomes None, so that equal switches compare equal.
        handle_chinese_chars: whether each Chinese character is a word of its own.
        clean_text: whether control characters are dropped, and all white space becomes spaces.
    """

    lower_case: bool = True
    strip_accents: bool | None = None
    handle_chinese_chars: bool = True
    clean_text: bool = True

    def __post_init__(self) -> None:
        if self.strip_accents == self.lower_case:
            object.__setattr__(self, "strip_accents", None)

    @property
    def ordinary(self) -> bool:
        """Whether all but `lower_case` is as in nearly all tokenizers."""
        return self == Normalization(self.lower_case)

    def record(self) -> dict[str, Any]:
        """For a file: `lower_case`, and the other switches where they are not ordinary.

        Older files have `lower_case` alone; ordinary ones stay the same, byte for byte.
        """
        plain = Normalization(self.lower_case)
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name == "lower_case" or getattr(self, field.name) != getattr(plain, field.name)
        }

    @classmethod
    def pop(cls, record: dict[str, Any]) -> Normalization:
        """The switches of a file that `record` was written to; they are taken out of what was read."""
        return cls(**{field.name: record.pop(field.name) for field in fields(cls) if field.name in record})
