"""The JSON Schema of the rows that a request holds."""

from math import ceil, floor

from mlops_loop.contract.json_schema import JsonSchema
from mlops_loop.contract.limits import MAX_ROWS
from mlops_loop.contract.schema import Column, Schema
from mlops_loop.contract.values import Row


def value_schema(column: Column, missing: tuple[str, ...]) -> JsonSchema:
    """Return the JSON Schema of one value."""
    text = f"{column.description} ({column.unit})" if column.unit else column.description
    low, high = column.limits
    kinds: dict[str, JsonSchema] = {
        "boolean": {"type": "boolean"},
        "integer": {"type": "integer", "minimum": ceil(low), "maximum": floor(high)},
        "number": {"type": "number", "minimum": low, "maximum": high},
        "category": {"type": "string", "enum": list(column.categories or ())},
        "timestamp": {"type": "string", "format": "date-time"},
    }
    found = kinds[column.type]
    if column.allow_unknown:
        text += f" Known are {', '.join(column.categories or ())}; others are taken as unknown."
        found = {"type": "string"}
        if not column.nullable:
            found["not"] = {"enum": list(missing)}
    if column.nullable:
        found["type"] = [str(found["type"]), "null"]
        if "enum" in found:
            found["enum"].append(None)
    return {"description": text.strip(), **found}


def row_schema(schema: Schema) -> JsonSchema:
    """Return the JSON Schema of a row."""
    inputs = schema.inputs.items()
    return {
        "type": "object",
        "title": "Row",
        "properties": {name: value_schema(column, schema.missing) for name, column in inputs},
        "required": [name for name, column in inputs if not column.nullable],
        "additionalProperties": False,
    }


def rows_schema(example: Row) -> JsonSchema:
    """Return the JSON Schema of a request's body."""
    rows: JsonSchema = {
        "type": "array",
        "items": {"$ref": "#/components/schemas/Row"},
        "minItems": 1,
        "maxItems": MAX_ROWS,
    }
    return {
        "type": "object",
        "title": "Rows",
        "properties": {"rows": rows},
        "required": ["rows"],
        "additionalProperties": False,
        "example": {"rows": [example]},
    }
