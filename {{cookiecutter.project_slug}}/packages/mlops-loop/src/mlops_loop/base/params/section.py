"""What each section of params.yaml is made from."""

from pydantic import BaseModel


class Section(BaseModel, extra="forbid"):
    """Part of params.yaml; an unknown key is refused."""
