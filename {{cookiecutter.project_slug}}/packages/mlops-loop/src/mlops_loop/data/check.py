"""The result of a check of the data, as validation.json has it."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from textwrap import shorten
from typing import Self

EXAMPLES = 5  # offending values shown for a failed check
TABLE = "the table"  # in place of a column


@dataclass(frozen=True)
class Check:
    """How many rows broke a rule, and how many may."""

    column: str
    rule: str
    expected: Mapping[str, object]
    allowed: float  # share of the rows
    score: float | None
    failed_rows: int
    rows: int
    examples: list[str]

    @property
    def passed(self) -> bool:
        return self.failed_rows <= self.allowed * self.rows + 1e-6

    def less(self, rows: int) -> Self:
        """Return the check without rows that another check has counted."""
        return replace(self, failed_rows=self.failed_rows - rows)

    def plus(self, other: "Check") -> Self:
        """Return the check of the rows of both."""
        return replace(
            self,
            failed_rows=self.failed_rows + other.failed_rows,
            rows=self.rows + other.rows,
            examples=distinct([*self.examples, *other.examples]),
        )

    def as_json(self) -> dict[str, object]:
        return asdict(self) | {"passed": self.passed}

    def describe(self) -> str:
        """Return a failed check in one line."""
        limits = ", ".join(f"{key} {value}" for key, value in self.expected.items())
        score = "" if self.score is None else f"measured {self.score}"
        allowed = f" (allowed {self.allowed:.2%})" if self.allowed else ""
        count = f"{self.failed_rows:,} rows{allowed}"
        examples = "; ".join(shorten(text, 120) for text in self.examples)
        parts = [self.rule, shorten(limits, 70), score, count]
        parts += [f"for example {examples}"] if self.examples else []
        return f"  {self.column}: " + ", ".join(filter(None, parts))


def distinct(examples: Iterable[object]) -> list[str]:
    return list(dict.fromkeys(str(value) for value in examples if value is not None))[:EXAMPLES]


def record(
    column: str,
    rule: str,
    failed: int,
    rows: int,
    examples: Iterable[object] = (),
    *,
    expected: Mapping[str, object] | None = None,
    allowed: float = 0.0,
    score: float | None = None,
) -> Check:
    """Return a check that is passed if at most the share `allowed` of the rows failed."""
    shown = distinct(examples)
    return Check(column, rule, expected or {}, allowed, score, int(failed), rows, shown)
