"""Scorer: the model of a bundle. Columns in, scores or answers out."""

from dataclasses import dataclass
from typing import cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.scoring import self_check
from mlops_loop.scoring.bundle import Bundle
from mlops_loop.scoring.derived import Columns, Deriver, Floats, Score, open_deriver
from mlops_loop.scoring.predictions import Answerer, Prediction, answerer
from mlops_loop.scoring.segments import routed


@dataclass(frozen=True)
class Scorer:
    """The model of a bundle, ready to score; threads may share it."""

    derive: Deriver
    scores: Score  # probabilities, shape (rows, classes); of a regression values, shape (rows, 1)
    answers: Answerer

    def score(self, columns: Columns) -> list[Prediction]:
        """Return the answer for each row, as the API gives it."""
        return cast(list[Prediction], msgspec.to_builtins(self.answers(self.scores(columns))))


def onnx_scores(bundle: Bundle) -> Score:
    """Return what scores with model.onnx and, if there are segments, with the model of each."""
    fallback = onnx_graph(bundle, "model.onnx")
    if not (segments := bundle.manifest.segments):
        return fallback
    models = {name: onnx_graph(bundle, file) for name, file in segments.models.items()}
    return routed(segments.column, models, fallback)


def onnx_graph(bundle: Bundle, file: str) -> Score:
    """Return what scores with a graph of the bundle, in ONNX Runtime."""
    import onnxruntime  # here, because a model in skops does without

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # small batches lose more to threads than they gain
    path = bundle.folder / file
    session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    inputs = [found.name for found in session.get_inputs()]  # in the order of the features
    output = session.get_outputs()[-1].name  # a classifier's first one is the label
    features = list(zip(bundle.schema.features.items(), inputs, strict=True))

    def scores(columns: Columns) -> Floats:
        feed: dict[str, NDArray[np.float32 | np.object_]] = {}
        for (name, column), given in features:
            values = columns[name]
            kind: type = np.float32
            if column.type == "category":
                kind = object
                may_have_gaps = not isinstance(values, np.ndarray) or column.derived
                if may_have_gaps and None in values:
                    values = [value or "" for value in values]
            feed[given] = np.asarray(values, dtype=kind).reshape(-1, 1)
        result: Floats = session.run([output], feed)[0]
        return result

    return scores


def skops_scores(bundle: Bundle) -> Score:
    """Return what scores with model.skops, in scikit-learn."""
    try:
        from mlops_loop.scoring.skops_model import open_model
    except ImportError as error:
        what = f"{bundle.folder} cannot be served here, {error.name} is missing"
        need = "its model needs the group serve-skops (SERVE_GROUP of deploy/Dockerfile)"
        raise Failure(f"{what}: {need}") from None
    return open_model(bundle.folder / "model.skops", bundle.schema)


FORMATS = {"model.onnx": onnx_scores, "model.skops": skops_scores}


def load_scorer(bundle: Bundle) -> Scorer:
    """Return the scorer of a bundle, by the model file that its manifest lists.

    Raises Refusal for a file that cannot be read or of another kind - a pickle is never opened: it
    could run any code -, and Failure for a model with types that nobody has reviewed.
    """
    models = [name for name in bundle.manifest.files if name.startswith("model.")]
    if len(models) != 1 or models[0] not in FORMATS:
        found = f"{bundle.folder} holds {', '.join(models) or 'no model'}"
        raise Refusal(f"{found}: it must be one of {', '.join(FORMATS)}, never a pickle")
    try:
        scores = FORMATS[models[0]](bundle)
    except Failure:
        raise
    except Exception as error:  # of as many kinds as there are engines
        reason = str(error).strip().partition("\n")[0]
        raise Refusal(f"{bundle.folder / models[0]} cannot be loaded: {reason}") from None
    answers = answerer(bundle.schema, bundle.operating_point)
    return Scorer(open_deriver(bundle.schema), scores, answers)


def open_scorer(bundle: Bundle) -> Scorer:
    """Return the scorer of a bundle, after it has scored the bundle's check rows as it must.

    Raises what `load_scorer` does, and Refusal if a check row comes out differently.
    """
    scorer = load_scorer(bundle)
    self_check.check(bundle, scorer.derive, scorer.scores)
    return scorer
