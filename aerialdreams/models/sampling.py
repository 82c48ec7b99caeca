"""Sampling settings, and diffusers' samplers by name."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler

from aerialdreams.models.families import BaseModel

SamplerName = Literal["ddim", "dpm++", "unipc"]
SAMPLERS = {
    "ddim": DDIMScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
}


@dataclass(frozen=True)
class Sampling:
    """How images are sampled from a trained model.

    Attributes:
        sampler: ddim, dpm++ or unipc.
        steps: denoising steps, 1 or more.
        guidance: classifier-free guidance scale (Ho and Salimans 2022); 1 turns it off.
        conditioning_scale: factor on the ControlNet's residuals, 0 or more.
    """

    sampler: SamplerName
    steps: int
    guidance: float
    conditioning_scale: float

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: one is out of range.
        """
        if self.sampler not in get_args(SamplerName):
            raise ValueError(f"sampler {self.sampler!r} is not one of {', '.join(SAMPLERS)}")
        if self.steps < 1 or self.guidance < 1 or self.conditioning_scale < 0:
            raise ValueError(
                f"steps {self.steps}, guidance {self.guidance:g}, conditioning_scale"
                f" {self.conditioning_scale:g}: must be at least 1, 1 and 0"
            )

    def override(self, **values: Any) -> "Sampling":
        """A copy with the values that are not None replaced."""
        given = {name: value for name, value in values.items() if value is not None}
        return Sampling(**(asdict(self) | given))


def make_sampler(base: BaseModel, name: SamplerName) -> Any:
    """A diffusers scheduler for sampling, with the noise schedule of the base model.

    All are deterministic given the initial noise. "trailing" spacing starts from pure noise, as
    training does (Lin et al. 2024, arXiv 2305.08891).
    """
    return SAMPLERS[name].from_config(base.scheduler.config, timestep_spacing="trailing")
