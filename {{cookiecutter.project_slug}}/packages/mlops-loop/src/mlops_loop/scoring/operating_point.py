"""Operating point: what turns scores into answers, chosen on the validation window."""

from dataclasses import dataclass

from mlops_loop.contract.schema import Schema


@dataclass(frozen=True)
class OperatingPoint:
    """Each task uses its own number; a multiclass classification uses neither."""

    threshold: float = 0.5  # a binary classification answers the positive class from here on
    half_width: float = 0.0  # of a regression's intervals

    def as_json(self, schema: Schema) -> dict[str, float]:
        """Return the number that this task uses, by its name."""
        if not schema.classes:
            return {"half_width": self.half_width}
        return {"threshold": self.threshold} if schema.positive else {}
