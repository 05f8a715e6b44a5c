"""A bundle made ready to answer."""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from mlops_loop.base.errors import Refusal
from mlops_loop.scoring.bundle import Bundle, open_bundle
from mlops_loop.scoring.derived import Columns, Floats
from mlops_loop.scoring.scorer import Scorer, open_scorer
from mlops_loop.serving.request_schema import Invalid, OutcomeReader, Reader, Rows


@dataclass(frozen=True)
class LoadedModel:
    bundle: Bundle
    reader: Reader
    outcomes: OutcomeReader
    scorer: Scorer

    @property
    def version(self) -> str:
        return self.bundle.version

    def score(self, rows: Rows) -> tuple[list[msgspec.Struct], Floats]:
        """Return the answer for each row, and the scores behind them.

        Raises Invalid for rows of which the contract does not allow what is derived from them.
        """
        columns: Columns = rows.columns
        if derived := self.scorer.derive(columns):
            for row, name, reason in self.scorer.derive.breaches(derived)[:1]:
                raise Invalid(422, f"is derived from this row, and {reason}", ["rows", row, name])
            columns = {**columns, **derived}
        scores = self.scorer.scores(columns)
        return self.scorer.answers(scores), scores


def load(folder: Path, secret: bytes = b"") -> LoadedModel:
    """Return the bundle in a folder, ready and warm: it has answered its example.

    Raises Failure if there is none, and Refusal if it cannot be served.
    """
    bundle = open_bundle(folder)
    reader = Reader(bundle.schema, secret)
    served = LoadedModel(bundle, reader, OutcomeReader(bundle.schema), open_scorer(bundle))
    try:
        served.score(served.reader.read(msgspec.json.encode({"rows": [bundle.manifest.example]})))
    except Exception as error:  # of as many kinds as there are engines
        reason = str(error).partition("\n")[0]
        raise Refusal(f"the bundle in {folder} does not answer its own example: {reason}") from None
    return served
