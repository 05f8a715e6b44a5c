"""Read requests and check them against the contract, by msgspec types made from it."""

import hmac
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from math import ceil, floor
from operator import attrgetter
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import msgspec
from msgspec import UNSET, Meta, UnsetType

from mlops_loop.contract.limits import MAX_ROWS, ODD_NAME
from mlops_loop.contract.schema import Column, Schema
from mlops_loop.contract.values import Row, Value

LENGTH = Meta(min_length=1, max_length=MAX_ROWS)
BLANKS = b" \t\n\r"  # in JSON
EXACT = 2**53  # up to here every integer is a float, too
UNKNOWN = "there is a key that the contract does not know"
TIME = "is no time in ISO 8601, such as 2024-12-31T23:59:00"
NOT_A_COLUMN = "(unknown column)"  # stands for one that a client made up
TOLD = {  # msgspec's words that would echo what was sent, and ours
    r"Object contains unknown field .*": UNKNOWN,
    r"Invalid enum value .*": "is none of the contract's categories",
    r"Invalid RFC3339 encoded datetime": TIME,
}


class ErrorDetail(TypedDict):
    """What is wrong with a request, as FastAPI has it."""

    loc: list[str | int]
    msg: str
    type: str


class Invalid(Exception):
    """A request that cannot be answered: its HTTP status, what is wrong, and where.

    `column` is the one that broke the contract, if one did; it is never the client's text.
    """

    def __init__(
        self, status: int, text: str, place: Sequence[str | int] = (), column: str = ""
    ) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.place = ["body", *place]
        self.column = column
        match place:
            case ["rows", int(), str(name)]:
                self.column = name
            case ["rows", int()] if text == UNKNOWN:
                self.column = NOT_A_COLUMN

    @property
    def detail(self) -> list[ErrorDetail]:
        return [{"loc": self.place, "msg": self.text, "type": "value_error"}]


class Repeated(Exception):
    """A JSON object names a key twice."""


def value_type(column: Column) -> Any:
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
    return kind | None | UnsetType if column.nullable else kind


class Rows(NamedTuple):
    """What was asked: the rows, and the same as columns, in which None is a missing value."""

    rows: list[msgspec.Struct]
    columns: dict[str, list[Value | datetime]]


class Reader:
    """Reads requests as the contract has them; `secret` hashes its `pii` columns in the log."""

    def __init__(self, schema: Schema, secret: bytes = b"") -> None:
        # Columns may have any name, fields may not: the n-th one is f<n>.
        inputs = {
            f"f{place}": (name, column)
            for place, (name, column) in enumerate(schema.inputs.items())
        }
        members: list[Any] = [
            (field, value_type(column), *([UNSET] if column.nullable else []))
            for field, (_, column) in inputs.items()
        ]
        names = {field: name for field, (name, _) in inputs.items()}
        # Where a name cannot be a field's, rows are read as mappings, and their keys replaced.
        self.fields = (
            {name: field for field, name in names.items()}
            if any(map(ODD_NAME.search, names.values()))
            else {}
        )
        self.names = (
            names if self.fields else {name: name for name in names.values()}
        )  # as errors call them
        options: Any = {"rename": None if self.fields else names, "kw_only": True}
        options |= {"forbid_unknown_fields": True}
        row: Any = msgspec.defstruct("Row", members, gc=False, **options)
        self.type: Any = Annotated[list[row], LENGTH]
        kind = Annotated[list[dict[str, Any]], LENGTH] if self.fields else self.type
        body = msgspec.defstruct("Rows", [("rows", kind)], forbid_unknown_fields=True)
        self.decoder: Any = msgspec.json.Decoder(body)
        self.encode = msgspec.json.Encoder().encode
        self.getters = [
            (name, attrgetter(field), column.nullable) for field, (name, column) in inputs.items()
        ]
        self.open = [
            (name, column.nullable) for name, column in inputs.values() if column.allow_unknown
        ]
        self.missing = set(schema.missing)
        self.secret = secret
        self.pii = [name for name, column in schema.inputs.items() if column.pii]
        self.others = {
            name: no_input(name, schema) for name in schema.columns if name not in schema.inputs
        }

    def read(self, body: bytes) -> Rows:
        """Return the rows of a JSON body {"rows": [...]}. Raises Invalid."""
        try:
            decoded = self.decoder.decode(body).rows
            rows = self.to_rows(decoded) if self.fields else decoded
        except msgspec.ValidationError as error:
            raise to_invalid(str(error), names=self.names, others=self.others) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise Invalid(400, "this is not JSON") from None
        columns, absent = self.columns(rows)
        # msgspec does not notice a key that is there twice; Python's json can, but is slower: it
        # looks only if there are more `":` than keys, whatever blanks lie between the two.
        keys = 1 + len(rows) * len(columns) - absent
        if body.translate(None, BLANKS).count(b'":') != keys:
            refuse_repeated(body)
        return Rows(rows, columns)

    def from_records(self, records: Sequence[Row]) -> Rows:
        """Return the rows of mappings; raise Invalid if they break the contract."""
        try:
            rows = self.to_rows(records)
        except msgspec.ValidationError as error:
            raise to_invalid(str(error), ["rows"], self.names, self.others) from None
        return Rows(rows, self.columns(rows)[0])

    def columns(self, rows: list[msgspec.Struct]) -> tuple[dict[str, list[Value | datetime]], int]:
        """Return the rows as columns, and how many values are absent.

        Where any text is allowed, some stand for a missing value: Invalid where none may be.
        """
        found = {name: list(map(get, rows)) for name, get, _ in self.getters}
        absent = 0
        for name, _, nullable in self.getters:
            if nullable and (gaps := found[name].count(UNSET)):
                absent += gaps
                found[name] = [None if value is UNSET else value for value in found[name]]
        for name, nullable in self.open:
            if not self.missing.isdisjoint(found[name]):
                if not nullable:
                    place = next(n for n, value in enumerate(found[name]) if value in self.missing)
                    raise Invalid(422, "is missing", ["rows", place, name])
                found[name] = [None if value in self.missing else value for value in found[name]]
        return found, absent

    def to_rows(self, records: Sequence[Row]) -> list[msgspec.Struct]:
        """Return mappings as structs. Raises msgspec.ValidationError, or Invalid."""
        given = self.translated(records) if self.fields else records
        rows: list[msgspec.Struct] = msgspec.convert(given, self.type)
        return rows

    def translated(self, records: Sequence[Row]) -> list[Row]:
        """Return mappings with the fields' names; keys that are not known stay unknown."""
        for place, row in enumerate(records):
            for name in row:
                if name in self.others:
                    raise Invalid(422, self.others[name], ["rows", place, name])
        return [{self.fields.get(key, ""): value for key, value in row.items()} for row in records]

    def dump(self, rows: list[msgspec.Struct], outputs: list[msgspec.Struct]) -> bytes:
        """Return [[features, output], ...] as JSON, for the log.

        Columns that the contract marks as `pii` are left out or, if there is a secret, hashed.
        """
        if not self.fields and not self.pii:
            return self.encode(list(zip(rows, outputs, strict=True)))
        records = [
            self.without({self.names.get(key, key): value for key, value in row.items()})
            for row in msgspec.to_builtins(rows)
        ]
        return self.encode(list(zip(records, outputs, strict=True)))

    def without(self, row: dict[str, Value]) -> dict[str, Value]:
        """Return a row as the log may have it."""
        for name in self.pii:
            if (value := row.pop(name, None)) is not None and self.secret:
                row[name] = hmac.new(self.secret, str(value).encode(), sha256).hexdigest()
        return row


def refuse_repeated(body: bytes) -> None:
    """Raise Invalid if an object names a key twice: JSON readers disagree on what that means."""
    try:
        json.loads(body, object_pairs_hook=once)
    except Repeated:
        raise Invalid(400, "a key is there twice in one object") from None


def once(pairs: list[tuple[str, object]]) -> None:
    """Raise Repeated if an object names a key twice."""
    if len({key for key, _ in pairs}) < len(pairs):
        raise Repeated


def no_input(name: str, schema: Schema) -> str:
    """Return why a request must not have a column that the contract knows."""
    column = schema.columns[name]
    if column.derived:
        return f"{name} is derived from the inputs by the server: leave it out"
    what = {"id": "an id", "slice": "a slice", "ignored": "ignored"}.get(
        column.role, f"the contract's {column.role}"
    )
    return f"{name} is {what}, not an input: leave it out"


def to_invalid(
    text: str,
    place: Sequence[str | int] = (),
    names: Mapping[str, str] = {},
    others: Mapping[str, str] = {},
) -> Invalid:
    """Return what msgspec says of a request, without echoing any of it.

    `names` are the inputs; `others` say of the contract's other columns why they are none.
    """
    said, _, where = text.rpartition(" - at `$") if " - at `$" in text else (text, "", "")
    unknown = re.fullmatch("Object contains unknown field `(.*)`", said, re.DOTALL)
    other = unknown[1] if unknown and unknown[1] in others else ""
    for pattern, instead in TOLD.items():
        said = re.sub(pattern, instead, said, flags=re.DOTALL)
    if number := re.match(r"(?:\.(rows|outcomes))?\[(\d+)\]\.?", where):
        place = [*(place or [number[1] or "rows"]), int(number[2])]
        where = where[number.end() :]
    missing = re.fullmatch("Object missing required field `(.*)`", said, re.DOTALL)
    said = "is missing" if missing else said
    column = missing[1] if missing else where.lstrip(".").rstrip("`")
    if other and len(place) > 1:
        return Invalid(422, others[other], [*place, other])
    status = 413 if re.match("Expected `array` of length <=", said) else 422
    return Invalid(status, said, [*place, *([names[column]] if column in names else [])])
