"""`train` in params.yaml: the estimator and its arguments."""

from typing import Self

from pydantic import BaseModel, Field, JsonValue

Arguments = dict[str, JsonValue]  # of an estimator
AUTO = "auto"  # the best of the project's candidates, by cross-validation


class TrainParams(BaseModel, extra="allow"):
    """How the model is trained. Each further key is a section: the arguments of an estimator."""

    __pydantic_extra__: dict[str, Arguments] = Field(init=False)
    model: str = "gradient_boosting"  # a name that the project's model.py knows, or AUTO
    seed: int = Field(default=0, ge=0)
    max_rows: int = Field(default=1_000_000, ge=1)

    @property
    def sections(self) -> dict[str, Arguments]:
        """The arguments of each estimator that params.yaml names."""
        return self.__pydantic_extra__

    @property
    def settings(self) -> Arguments:
        """The arguments of the estimator that is trained."""
        return self.sections.get(self.model, {})

    def with_settings(self, settings: Arguments) -> Self:
        """Return the parameters with other arguments of the estimator that is trained."""
        return self.model_validate(self.model_dump() | {self.model: settings})
