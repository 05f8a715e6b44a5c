"""Smoke test, for a container of deploy/seldon/Dockerfile: python smoke.py URL MODEL [SECONDS]

The bundle's example must be answered, and by the bundle's version; for that many seconds it tries
again.
"""

import json
import os
import sys
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

DATATYPES = {str: "BYTES", bool: "BOOL"}  # numbers may all be sent as FP64


def read(name: str) -> dict:
    path = Path(os.environ["BUNDLE"], name)
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def ask(url: str, model: str, row: dict) -> dict:
    inputs = [
        {"name": name, "shape": [1], "datatype": DATATYPES.get(type(it), "FP64"), "data": [it]}
        for name, it in row.items()
    ]
    headers = {"Content-Type": "application/json"}
    body = json.dumps({"inputs": inputs}).encode()
    try:
        request = Request(f"{url}/v2/models/{model}/infer", body, headers)  # noqa: S310
        with urlopen(request, timeout=10) as answer:  # noqa: S310 - the URL is the caller's
            return json.load(answer)
    except HTTPError as error:
        raise OSError(f"{error}: {error.read().decode(errors='replace')[:300]}") from None


url, model, *seconds = sys.argv[1:]
version = read("promotion.json").get("version")
until = time.monotonic() + float(seconds[0] if seconds else 0)
while True:
    try:
        answer = ask(url, model, read("bundle.json")["example"])
        if version in (None, answer["model_version"]):
            break
        problem = f"version {answer['model_version']} answers, not {version}"
    except OSError as error:
        problem = str(error)
    if time.monotonic() > until:
        sys.exit(f"error: {url}/v2/models/{model}: {problem}")
    time.sleep(1)
print(json.dumps(answer))
