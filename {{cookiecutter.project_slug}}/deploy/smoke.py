"""Smoke test: ask the API, from inside its container, one real question."""

import json
import os
from urllib.request import Request, urlopen

headers = {"Content-Type": "application/json"}


def ask(path: str, body: object = None) -> dict:
    data = json.dumps(body).encode() if body else None
    with urlopen(Request(f"http://127.0.0.1:8000{path}", data, headers), timeout=10) as answer:
        return json.load(answer)


ask("/health/ready")
example = ask("/openapi.json")["components"]["schemas"]["Rows"]["example"]
headers["X-API-Key"] = os.environ["API_KEYS"].split(",")[0].partition(":")[2].strip()
print(ask("/v1/predict", example))
