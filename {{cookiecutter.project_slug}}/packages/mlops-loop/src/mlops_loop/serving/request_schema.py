"""Read requests and check them against the contract, by msgspec types made from it."""

import hmac
import re
from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from math import ceil, floor
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta
from starlette.exceptions import HTTPException

from mlops_loop.contract.compatibility import role_of
from mlops_loop.contract.schema import LARGEST, Column, Schema
from mlops_loop.contract.values import MAX_ROWS, ODD_NAME, Row, Value

MAX_OUTCOMES = 10_000  # in one request
EXACT = 2**53  # up to here every integer is a float, too
NOT_A_COLUMN = "(unknown column)"  # stands for one that a client made up
PLACE = re.compile(r"(?:\.(rows|outcomes))?\[(\d+)\]\.?(.*)`", re.DOTALL)
FIELD = re.compile("Object [a-z ]+ field `(.*)`", re.DOTALL)
TOLD = {  # msgspec's words that would echo what was sent or say too little, and ours
    "Object contains": "there is a key that the contract does not know",
    "Object missing": "is missing",
    "Invalid enum": "is none of the contract's categories",
    "Invalid RFC3339": "is no time in ISO 8601, such as 2024-12-31T23:59:00",
}


class Invalid(HTTPException):
    """A request that cannot be answered; `column` broke the contract, and is no client's text."""

    def __init__(
        self, status: int, text: str, place: Sequence[str | int] = (), column: str = ""
    ) -> None:
        super().__init__(status)
        self.text = text
        self.place = place
        self.column = column
        # FastAPI's form, which clients of such APIs know.
        self.detail: Any = [{"loc": ["body", *place], "msg": text, "type": "value_error"}]

    def __str__(self) -> str:
        where = ", ".join(map(str, self.place))
        return f"{where}: {self.text}" if where else self.text


def invalid_value(row: int, name: str, text: str) -> Invalid:
    return Invalid(422, text, ["rows", row, name], name)


def value_type(column: Column, missing: tuple[str, ...]) -> Any:
    low, high = column.limits
    whole = column.type == "integer"  # 5.0 is one as well: to JSON they are the same
    kind: Any = Annotated[float, Meta(ge=low, le=high, multiple_of=1 if whole else None)]
    if whole and max(-low, high) <= EXACT:
        kind = Annotated[int, Meta(ge=ceil(low), le=floor(high))] | kind
    if column.type == "category":
        kind = str if column.allow_unknown else Literal[column.categories]
    kind = {"boolean": bool, "timestamp": datetime}.get(column.type, kind)
    text = f"{column.description} ({column.unit})" if column.unit else column.description
    more: dict[str, Any] = {"format": "date-time"} if column.type == "timestamp" else {}
    if column.allow_unknown:
        text += f" Known are {', '.join(column.categories or ())}; others are taken as unknown."
        more = {} if column.nullable else {"not": {"enum": list(missing)}}
    about = Meta(description=text.strip(), extra_json_schema=more)
    return Annotated[kind | None if column.nullable else kind, about]


def row_type(schema: Schema, keys: list[str]) -> Any:
    fields: list[Any] = [
        (f"f{place}", value_type(column, schema.missing), *([None] if column.nullable else []))
        for place, column in enumerate(schema.inputs.values())
    ]
    rename = {field[0]: key for field, key in zip(fields, keys, strict=True)}
    options: Any = {"rename": rename, "kw_only": True, "forbid_unknown_fields": True}
    return msgspec.defstruct("Row", fields, gc=False, **options)


def body_type(name: str, item: Any, most: int) -> Any:
    items = Annotated[list[item], Meta(min_length=1, max_length=most)]
    return msgspec.defstruct(name.title(), [(name, items)], forbid_unknown_fields=True)


def outcome_type(schema: Schema) -> Any:
    target = schema.columns[schema.target]
    whole = 1 if target.type == "integer" else None
    # A number may lie beyond the contract's range: the world is not bound to it.
    number: Any = Annotated[float, Meta(ge=-LARGEST, le=LARGEST, multiple_of=whole)]
    value: Any = Literal[tuple(schema.classes)] if schema.classes else number
    fields: list[Any] = [
        ("prediction_id", Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]),
        ("value", Annotated[value, Meta(description=target.description)]),
    ]
    return msgspec.defstruct("Outcome", fields, forbid_unknown_fields=True)


class Rows(NamedTuple):
    rows: list[msgspec.Struct]
    columns: dict[str, Sequence[Value | datetime]]  # the same; None is a missing value


class Reader:
    """Reads requests as the contract has them; `secret` hashes its `pii` columns in the log."""

    def __init__(self, schema: Schema, secret: bytes = b"") -> None:
        self.inputs = schema.inputs
        # Columns may have any name, keys in msgspec may not: these rows are read as mappings first.
        self.keys = {
            name: f"\ufffd{place}" if ODD_NAME.search(name) else name
            for place, name in enumerate(schema.inputs)
        }
        self.names = {key: name for name, key in self.keys.items()}
        self.odd = list(self.names) != list(self.keys)
        row: Any = row_type(schema, list(self.names))
        self.row_list: Any = list[row]
        self.rows_type = body_type("rows", row, MAX_ROWS)
        self.outcomes_type = body_type("outcomes", outcome_type(schema), MAX_OUTCOMES)
        sent = body_type("rows", dict[str, Any], MAX_ROWS) if self.odd else self.rows_type
        self.rows_decoder: Any = msgspec.json.Decoder(sent)
        self.outcomes_decoder: Any = msgspec.json.Decoder(self.outcomes_type)
        self.missing = set(schema.missing)
        self.secret = secret
        self.pii = [name for name, column in schema.inputs.items() if column.pii]
        self.others = {
            name: f"{name} is the contract's {role_of(column)}, not an input: leave it out"
            for name, column in schema.columns.items()
            if name not in schema.inputs
        }

    def read(self, body: bytes) -> Rows:
        """Return the rows of a JSON body {"rows": [...]}. Raises Invalid."""
        rows = self.decode(self.rows_decoder, body).rows
        return self.from_records(rows) if self.odd else Rows(rows, self.columns(rows))

    def read_outcomes(self, body: bytes) -> list[tuple[str, Value]]:
        """Return the (prediction id, value) pairs of {"outcomes": [...]}. Raises Invalid."""
        outcomes = self.decode(self.outcomes_decoder, body).outcomes
        return [(outcome.prediction_id, outcome.value) for outcome in outcomes]

    def from_records(self, records: Sequence[Row]) -> Rows:
        """Return the rows of mappings; raise Invalid if they break the contract."""
        if self.odd:
            keys = self.keys
            records = [{keys.get(name, name): row[name] for name in row} for row in records]
        try:
            rows = msgspec.convert(records, self.row_list)
        except msgspec.ValidationError as error:
            raise self.invalid(str(error)) from None
        return Rows(rows, self.columns(rows))

    def columns(self, rows: list[msgspec.Struct]) -> dict[str, Sequence[Value | datetime]]:
        """Return the rows as columns; where any text is allowed, some stand for a missing value."""
        values = zip(*map(msgspec.structs.astuple, rows), strict=True)
        found: dict[str, Any] = dict(zip(self.inputs, values, strict=True))
        for name, column in self.inputs.items():
            if column.allow_unknown and not self.missing.isdisjoint(found[name]):
                if not column.nullable:
                    place = next(n for n, value in enumerate(found[name]) if value in self.missing)
                    raise invalid_value(place, name, "is missing")
                found[name] = [None if value in self.missing else value for value in found[name]]
        return found

    def loggable(self, rows: list[msgspec.Struct]) -> Sequence[msgspec.Struct | Row]:
        """Return rows as the log may have them: `pii` is left out or, with a secret, hashed."""
        if not self.odd and not self.pii:
            return rows
        found = []
        for row in msgspec.to_builtins(rows):
            named: dict[str, Value] = {self.names[key]: value for key, value in row.items()}
            for name in self.pii:
                value = named.pop(name)
                if value is not None and self.secret:
                    named[name] = hmac.new(self.secret, str(value).encode(), sha256).hexdigest()
            found.append(named)
        return found

    def decode(self, decoder: Any, body: bytes) -> Any:
        try:
            return decoder.decode(body)
        except msgspec.ValidationError as error:
            raise self.invalid(str(error)) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise Invalid(400, "this is not JSON") from None

    def invalid(self, text: str) -> Invalid:
        """Return what msgspec says of a request, without echoing any of it."""
        said, _, path = text.rpartition(" - at `$")
        said = said or text
        place: list[str | int] = []
        key = ""
        if found := PLACE.fullmatch(path):
            place = [found[1] or "rows", int(found[2])]
            key = found[3]
        if field := FIELD.fullmatch(said):
            key = field[1]
        unknown = said.startswith("Object contains")
        column = NOT_A_COLUMN if unknown and place else ""
        status = 413 if said.startswith("Expected `array` of length <=") else 422
        said = next((ours for start, ours in TOLD.items() if said.startswith(start)), said)
        if place[:1] == ["rows"] and key in self.others:
            return invalid_value(int(place[1]), key, self.others[key])
        if place and key and not unknown:  # then it is ours, and no client's text
            column = self.names.get(key, key)
            place.append(column)
        return Invalid(status, said, place, column)
