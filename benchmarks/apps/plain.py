"""Plain: the FastAPI + pandas app that one writes in an afternoon."""

from typing import Any

import pandas as pd
from fastapi import FastAPI
from fitted import FACTS, TYPES, load
from pydantic import BaseModel, create_model

fields: dict[str, Any] = dict.fromkeys(FACTS["numbers"], (float | None, None))
fields |= dict.fromkeys(FACTS["categories"], (str, ...))
Row: Any = create_model("Row", **fields)


class Rows(BaseModel):
    rows: list[Row]


class Answer(BaseModel):
    scores: list[list[float]]


app = FastAPI()
score = getattr(load(), FACTS["method"])


@app.post("/predict")
def predict(body: Rows) -> Answer:
    table = pd.DataFrame([row.model_dump() for row in body.rows]).astype(TYPES)
    return Answer(scores=score(table).reshape(len(table), -1).tolist())
