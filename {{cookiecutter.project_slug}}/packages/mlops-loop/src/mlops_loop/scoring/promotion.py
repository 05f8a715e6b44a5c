"""Promotion: what promotion.json says of a bundle that was promoted."""

from pydantic import BaseModel, JsonValue


class PromotionFacts(BaseModel, frozen=True, extra="allow", coerce_numbers_to_str=True):
    """The registry's facts of a version; its other tags, and the gates' results, are kept too.

    All are empty if the bundle was never promoted.
    """

    __pydantic_extra__: dict[str, JsonValue]
    version: str = ""
    run_id: str = ""
    promoted_by: str = ""
    promoted_at: str = ""
    refused: str = ""
    git_commit: str = ""
    dvc_lock: str = ""
    bundle_sha256: str = ""
    files: dict[str, str] = {}  # SHA-256 of the files that the promotion completed
