"""A tracking server by its REST API: the few answers that the registry needs, as types."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import requests
from pydantic import BaseModel, ValidationError

from mlops_loop.base.errors import Failure, redacted

NEEDED = 3  # MLflow's major version
TIMEOUT = 10, 120  # seconds to connect, and until the next part of an answer
PER_PAGE = 1000


class Alias(BaseModel):
    alias: str
    version: str


class Model(BaseModel):
    aliases: list[Alias] = []


class Tag(BaseModel):
    key: str
    value: str = ""


class ModelVersion(BaseModel):
    version: str
    run_id: str = ""
    creation_timestamp: int
    tags: list[Tag] = []


class RunInfo(BaseModel):
    run_name: str = ""
    artifact_uri: str = ""


class Run(BaseModel):
    info: RunInfo = RunInfo()


class File(BaseModel):
    path: str
    is_dir: bool = False


class Answer(BaseModel):
    """Any answer of the API: what is not in it has its default."""

    error_code: str = ""
    message: str = ""
    next_page_token: str = ""
    registered_model: Model = Model()
    model_versions: list[ModelVersion] = []
    run: Run = Run()
    files: list[File] = []


def is_server(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


def unusable(uri: str, error: object) -> Failure:
    """Return the one line about what MLflow, its database or its server says."""
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return Failure(redacted(f"MLflow at {uri}: {reason} (see MLFLOW_TRACKING_URI)"))


class Server:
    """Log-in and certificates come from the variables that MLflow's own client reads."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self.http = requests.Session()
        name = os.environ.get("MLFLOW_TRACKING_USERNAME")
        if name:
            self.http.auth = (name, os.environ.get("MLFLOW_TRACKING_PASSWORD", ""))
        elif token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
            self.http.headers["Authorization"] = f"Bearer {token}"
        if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS") == "true":
            self.http.verify = False
        elif bundle := os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH"):
            self.http.verify = bundle
        self.http.cert = os.environ.get("MLFLOW_TRACKING_CLIENT_CERT_PATH")
        self.check_version()

    def check_version(self) -> None:
        """Raise a Failure for a server that is too old, or is no tracking server."""
        answer = self.request("GET", "/version")
        if answer.status_code in (401, 403):
            raise unusable(self.uri, f"it answers {answer.status_code}: who may log in?")
        said = answer.text.strip() if answer.ok else ""
        if not re.fullmatch(r"\d+\.\d+\S*", said):
            raise unusable(self.uri, "no MLflow server answers there")
        if int(said.partition(".")[0]) < NEEDED:
            raise unusable(self.uri, f"server {said}, needed {NEEDED}.x: update the server")

    def get(self, what: str, **fields: str) -> Answer:
        return self.answer(self.request("GET", f"/api/2.0/mlflow/{what}", params=fields))

    def send(self, method: str, path: str, fields: dict[str, str]) -> None:
        self.answer(self.request(method, f"/api/2.0/mlflow/{path}", body=fields))

    def search_versions(self, name: str) -> list[ModelVersion]:
        found: list[ModelVersion] = []
        token = ""
        while True:
            answer = self.get(
                "model-versions/search",
                filter=f"name = '{name}'",
                max_results=str(PER_PAGE),
                page_token=token,
            )
            found += answer.model_versions
            if not (token := answer.next_page_token):
                return found

    def download(self, run_id: str, path: str, target: Path) -> None:
        """Copy a folder of a run's files to a folder that is not there yet."""
        for file in self.files_below(run_id, path):
            place = target / Path(file).relative_to(path)
            place.parent.mkdir(parents=True, exist_ok=True)
            url = f"/get-artifact?run_id={quote(run_id)}&path={quote(file)}"
            answer = self.request("GET", url, stream=True)
            if not answer.ok:
                raise unusable(self.uri, f"{file} cannot be fetched: status {answer.status_code}")
            with answer, place.open("wb") as copy:
                shutil.copyfileobj(answer.raw, copy)

    def files_below(self, run_id: str, path: str) -> Iterator[str]:
        for entry in self.get("artifacts/list", run_id=run_id, path=path).files:
            if entry.is_dir:
                yield from self.files_below(run_id, entry.path)
            else:
                yield entry.path

    def request(
        self,
        method: str,
        path: str,
        params: dict[str, str] | None = None,
        body: dict[str, str] | None = None,
        stream: bool = False,
    ) -> requests.Response:
        try:
            return self.http.request(
                method,
                f"{self.uri}{path}",
                params=params,
                json=body,
                timeout=TIMEOUT,
                stream=stream,
            )
        except requests.RequestException as error:
            cause = getattr(error.args[0] if error.args else None, "reason", None) or error
            raise unusable(self.uri, f"it does not answer ({type(cause).__name__})") from None

    def answer(self, response: requests.Response) -> Answer:
        try:
            found = Answer.model_validate_json(response.content or b"{}")
        except ValidationError:
            raise unusable(self.uri, f"status {response.status_code}, no JSON") from None
        if not response.ok and found.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise unusable(self.uri, found.message or f"status {response.status_code}")
        return found
