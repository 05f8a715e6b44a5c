"""`ingest` in params.yaml: where rows come from."""

from urllib.parse import urlsplit

from pydantic import Field, NaiveDatetime, field_serializer

from mlops_loop.base.params.section import Section


class Sql(Section):
    sql: str = Field(min_length=1)
    url_env: str = Field(min_length=1)  # the environment variable that holds the database's URL


def format_source(source: str | Sql) -> str:
    """Return a source as it may be printed: a URL's password and signature are left out."""
    if isinstance(source, Sql):
        return f"the query on {source.url_env}"
    if "://" not in source:
        return source
    parts = urlsplit(source)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


class IngestParams(Section):
    source: str | Sql
    start: NaiveDatetime | None = None
    end: NaiveDatetime | None = None

    @field_serializer("source")
    def without_secrets(self, source: str | Sql) -> str | dict[str, str]:
        """Dump the source as it may be seen: cards, manifests and runs are read by many."""
        return source.model_dump() if isinstance(source, Sql) else format_source(source)
