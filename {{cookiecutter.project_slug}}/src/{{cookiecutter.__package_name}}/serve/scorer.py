"""Scorer: the exported model in ONNX Runtime. Columns in, probabilities out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime

from ..bundle import Bundle


class Scorer:
    """The model of a bundle, ready to score; threads may share it."""

    def __init__(self, bundle: Bundle) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # small batches lose more to threads than they gain
        path = bundle.folder / "model.onnx"
        self.session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
        self.schema = bundle.schema
        self.classes: list[str] = bundle.manifest["classes"]
        self.threshold: float = bundle.manifest["threshold"]
        self.positive = self.classes.index(bundle.schema.positive)

    def probabilities(self, columns: Mapping[str, Sequence[Any]]) -> np.ndarray:
        """Return the probability of each class, shape (rows, classes), in the order of `classes`.

        `columns` holds every feature of the contract; None is a missing value.
        """
        feed = {name: np.array(columns[name], dtype=np.float32) for name in self.schema.numeric}
        for name in self.schema.categorical:
            feed[name] = np.array([value or "" for value in columns[name]], dtype=object)
        inputs = {name: values.reshape(-1, 1) for name, values in feed.items()}
        result: np.ndarray = self.session.run(["probabilities"], inputs)[0]
        return result

    def score(self, columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
        """Return for each row its label, positive from the threshold on, and its probabilities."""
        names = {True: self.classes[self.positive], False: self.classes[1 - self.positive]}
        return [
            {
                "label": names[row[self.positive] >= self.threshold],
                "probabilities": dict(zip(self.classes, row, strict=True)),
            }
            for row in self.probabilities(columns).tolist()
        ]
