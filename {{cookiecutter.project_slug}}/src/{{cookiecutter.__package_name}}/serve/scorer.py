"""Scorer: the exported model in ONNX Runtime. Columns in, scores or answers out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime

from ..bundle import Bundle
from .answers import ANSWERS


class Scorer:
    """The model of a bundle, ready to score; threads may share it."""

    def __init__(self, bundle: Bundle) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # small batches lose more to threads than they gain
        path = bundle.folder / "model.onnx"
        self.session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
        self.features, self.categorical = list(bundle.schema.features), set(bundle.schema.categorical)
        self.inputs = [found.name for found in self.session.get_inputs()]  # in the order of the features
        self.output = self.session.get_outputs()[-1].name  # a classifier's first one is the label
        self.manifest, self.answers = bundle.manifest, ANSWERS[bundle.schema.task][1]

    def scores(self, columns: Mapping[str, Sequence[Any]]) -> np.ndarray:
        """Return probabilities, shape (rows, classes), or for a regression values, shape (rows, 1).

        `columns` holds every feature of the contract; None is a missing value.
        """
        feed = {}
        for name, given in zip(self.features, self.inputs, strict=True):
            values, text = columns[name], name in self.categorical
            if text:
                array = np.array([value or "" for value in values], dtype=object)
            else:
                array = np.asarray(values, dtype=np.float32)
            feed[given] = array.reshape(-1, 1)
        result: np.ndarray = self.session.run([self.output], feed)[0]
        return result

    def score(self, columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
        """Return the answer for each row, as the API gives it."""
        answers: list[dict[str, Any]] = self.answers(self.scores(columns), self.manifest)
        return answers
