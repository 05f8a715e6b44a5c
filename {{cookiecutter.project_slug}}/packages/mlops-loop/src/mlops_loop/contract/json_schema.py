"""JSON Schema: the keywords that the documentation of the API uses."""

from typing import TypedDict

JsonSchema = TypedDict(
    "JsonSchema",
    {
        "$ref": str,
        "type": str | list[str],
        "title": str,
        "description": str,
        "format": str,
        "pattern": str,
        "enum": list[str | None],
        "not": "JsonSchema",
        "minimum": float,
        "maximum": float,
        "items": "JsonSchema",
        "minItems": int,
        "maxItems": int,
        "properties": dict[str, "JsonSchema"],
        "required": list[str],
        "additionalProperties": bool,
        "example": object,
    },
    total=False,
)
