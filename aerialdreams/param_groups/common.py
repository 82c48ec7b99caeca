"""What the groups of params have in common."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Share = Annotated[float, Field(ge=0, le=1)]


class Group(BaseModel):
    """Unknown keys are errors, and values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)
