"""Read requests and check them against the contract, by msgspec types made from it."""

import hmac
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from math import ceil, floor
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta
from starlette.exceptions import HTTPException

from mlops_loop.contract.schema import LARGEST, Column, Schema
from mlops_loop.contract.values import MAX_ROWS, ODD_NAME, Row, Value

Outcome = str | int | float | bool
MAX_OUTCOMES = 10_000  # in one request
EXACT = 2**53  # up to here every integer is a float, too
UNKNOWN = "there is a key that the contract does not know"
NOT_A_COLUMN = "(unknown column)"  # stands for one that a client made up
TOLD = {  # msgspec's words that would echo what was sent or say too little, and ours
    r"Object contains unknown field .*": UNKNOWN,
    r"Object missing required field .*": "is missing",
    r"Invalid enum value .*": "is none of the contract's categories",
    r"Invalid RFC3339 encoded datetime": "is no time in ISO 8601, such as 2024-12-31T23:59:00",
}


class Invalid(HTTPException):
    """A request that cannot be answered: its HTTP status, what is wrong, and where.

    `column` is the one that broke the contract, if one did; it is never the client's text.
    """

    def __init__(
        self, status: int, text: str, place: Sequence[str | int] = (), column: str = ""
    ) -> None:
        super().__init__(status)
        self.text = text
        self.place = place
        # FastAPI's form, which clients of such APIs know.
        self.detail: Any = [{"loc": ["body", *place], "msg": text, "type": "value_error"}]
        self.column = column
        match place:
            case ["rows", int(), str(name)]:
                self.column = name
            case ["rows", int()] if text == UNKNOWN:
                self.column = NOT_A_COLUMN

    def __str__(self) -> str:
        where = ", ".join(map(str, self.place))
        return f"{where}: {self.text}" if where else self.text


def value_type(column: Column, missing: tuple[str, ...]) -> Any:
    """Return the type of one value: strict, within the contract's range or categories."""
    low, high = column.limits
    number: Any = Annotated[float, Meta(ge=low, le=high)]
    if column.type == "integer":  # 5.0 is one as well: to JSON they are the same
        number = Annotated[float, Meta(ge=low, le=high, multiple_of=1)]
        if max(-low, high) <= EXACT:
            number = Annotated[int, Meta(ge=ceil(low), le=floor(high))] | number
    known: Any = str if column.allow_unknown else Literal[column.categories]
    kinds: dict[str, Any] = {"category": known, "boolean": bool, "timestamp": datetime}
    kind = kinds.get(column.type, number)
    text = f"{column.description} ({column.unit})" if column.unit else column.description
    more: dict[str, Any] = {"format": "date-time"} if column.type == "timestamp" else {}
    if column.allow_unknown:
        text += f" Known are {', '.join(column.categories or ())}; others are taken as unknown."
        more = {} if column.nullable else {"not": {"enum": list(missing)}}
    about = Meta(description=text.strip(), extra_json_schema=more)
    return Annotated[kind | None if column.nullable else kind, about]


class Rows(NamedTuple):
    """What was asked: the rows, and the same as columns, in which None is a missing value."""

    rows: list[msgspec.Struct]
    columns: dict[str, Sequence[Value | datetime]]


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
        fields: list[Any] = [
            (f"f{place}", value_type(column, schema.missing), *([None] if column.nullable else []))
            for place, column in enumerate(schema.inputs.values())
        ]
        rename = {field[0]: key for field, key in zip(fields, self.names, strict=True)}
        options: Any = {"rename": rename, "kw_only": True, "forbid_unknown_fields": True}
        row: Any = msgspec.defstruct("Row", fields, gc=False, **options)
        self.row_list: Any = Annotated[list[row], Meta(min_length=1, max_length=MAX_ROWS)]
        self.body_type = body_type(self.row_list)
        as_sent = Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=MAX_ROWS)]
        self.decoder: Any = msgspec.json.Decoder(body_type(as_sent) if self.odd else self.body_type)
        self.missing = set(schema.missing)
        self.secret = secret
        self.pii = [name for name, column in schema.inputs.items() if column.pii]
        self.others = {
            name: no_input(name, schema) for name in schema.columns if name not in schema.inputs
        }

    def read(self, body: bytes) -> Rows:
        """Return the rows of a JSON body {"rows": [...]}. Raises Invalid."""
        rows = decode(self.decoder, body, self.names, self.others).rows
        return self.from_records(rows) if self.odd else Rows(rows, self.columns(rows))

    def from_records(self, records: Sequence[Row]) -> Rows:
        """Return the rows of mappings; raise Invalid if they break the contract."""
        if self.odd:
            keys = self.keys
            records = [{keys.get(name, name): row[name] for name in row} for row in records]
        try:
            rows = msgspec.convert(records, self.row_list)
        except msgspec.ValidationError as error:
            raise to_invalid(str(error), self.names, self.others) from None
        return Rows(rows, self.columns(rows))

    def columns(self, rows: list[msgspec.Struct]) -> dict[str, Sequence[Value | datetime]]:
        """Return the rows as columns.

        Where any text is allowed, some stand for a missing value: Invalid where none may be.
        """
        values = zip(*map(msgspec.structs.astuple, rows), strict=True)
        found: dict[str, Any] = dict(zip(self.inputs, values, strict=True))
        for name, column in self.inputs.items():
            if column.allow_unknown and not self.missing.isdisjoint(found[name]):
                if not column.nullable:
                    place = next(n for n, value in enumerate(found[name]) if value in self.missing)
                    raise Invalid(422, "is missing", ["rows", place, name])
                found[name] = [None if value in self.missing else value for value in found[name]]
        return found

    def loggable(self, rows: list[msgspec.Struct]) -> Sequence[msgspec.Struct | Row]:
        """Return rows as the log may have them.

        Columns that the contract marks as `pii` are left out or, if there is a secret, hashed.
        """
        if not self.odd and not self.pii:
            return rows
        found: list[dict[str, Value]] = [
            {self.names[key]: value for key, value in row.items()}
            for row in msgspec.to_builtins(rows)
        ]
        for row in found:
            for name in self.pii:
                value = row.pop(name)
                if value is not None and self.secret:
                    row[name] = hmac.new(self.secret, str(value).encode(), sha256).hexdigest()
        return found


def body_type(rows: Any) -> Any:
    return msgspec.defstruct("Rows", [("rows", rows)], forbid_unknown_fields=True)


class OutcomeReader:
    """Reads ground truth as the contract has it: {"outcomes": [...]}."""

    def __init__(self, schema: Schema) -> None:
        target = schema.columns[schema.target]
        whole = 1 if target.type == "integer" else None
        # A number may lie beyond the contract's range: the world is not bound to it.
        number: Any = Annotated[float, Meta(ge=-LARGEST, le=LARGEST, multiple_of=whole)]
        value: Any = Literal[tuple(schema.classes)] if schema.classes else number
        described = Annotated[value, Meta(description=target.description)]
        name = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
        fields = [("prediction_id", name), ("value", described)]
        self.names = {name: name for name, _ in fields}
        outcome: Any = msgspec.defstruct("Outcome", fields, forbid_unknown_fields=True)
        outcomes = Annotated[list[outcome], Meta(min_length=1, max_length=MAX_OUTCOMES)]
        self.body_type: Any = msgspec.defstruct(
            "Outcomes", [("outcomes", outcomes)], forbid_unknown_fields=True
        )
        self.decoder: Any = msgspec.json.Decoder(self.body_type)

    def read(self, body: bytes) -> list[tuple[str, Outcome]]:
        """Return (prediction id, value) pairs. Raises Invalid."""
        outcomes = decode(self.decoder, body, self.names).outcomes
        return [(outcome.prediction_id, outcome.value) for outcome in outcomes]


def no_input(name: str, schema: Schema) -> str:
    """Return why a request must not have a column that the contract knows."""
    column = schema.columns[name]
    if column.derived:
        return f"{name} is derived from the inputs by the server: leave it out"
    what = {"id": "an id", "slice": "a slice", "ignored": "ignored"}.get(
        column.role, f"the contract's {column.role}"
    )
    return f"{name} is {what}, not an input: leave it out"


def decode(
    decoder: Any, body: bytes, names: Mapping[str, str], others: Mapping[str, str] = {}
) -> Any:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise to_invalid(str(error), names, others) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Invalid(400, "this is not JSON") from None


def to_invalid(text: str, names: Mapping[str, str], others: Mapping[str, str]) -> Invalid:
    """Return what msgspec says of a request, without echoing any of it.

    `names` are the inputs by their keys; `others` say of other columns why they are no inputs.
    """
    said, _, where = text.rpartition(" - at `$") if " - at `$" in text else (text, "", "")
    place: list[str | int] = []
    if number := re.match(r"(?:\.(rows|outcomes))?\[(\d+)\]\.?", where):
        place = [number[1] or "rows", int(number[2])]
        where = where[number.end() :]
    field = re.fullmatch("Object [a-z ]+ field `(.*)`", said, re.DOTALL)
    key = field[1] if field else where.lstrip(".").rstrip("`")
    if key in others and place:
        return Invalid(422, others[key], [*place, key])
    status = 413 if said.startswith("Expected `array` of length <=") else 422
    if key in names and not said.startswith("Object contains"):
        place.append(names[key])
    for pattern, ours in TOLD.items():
        said = re.sub(pattern, ours, said, flags=re.DOTALL)
    return Invalid(status, said, place)
