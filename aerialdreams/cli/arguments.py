"""Arguments that several subcommands share: types, sampling settings, masks, models."""

import argparse
import math
from typing import Any

from aerialdreams.paths import ADAPTED_BASE, CONTROLNET


def add_prompt_arguments(parser: argparse.ArgumentParser) -> None:
    """--prompt, --negative-prompt and --seed."""
    parser.add_argument("--prompt", type=text, default="Aerial view.", help="what the image shows")
    parser.add_argument(
        "--negative-prompt",
        type=text,
        default="",
        help="what the image must not show; needs guidance > 1",
    )
    parser.add_argument(
        "--seed", type=non_negative, default=0, help="seed of the noise (default 0)"
    )


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Sampling settings, how a mask is read, and the models."""
    model = parser.add_argument_group("sampling (default: the values saved with the model)")
    model.add_argument("--sampler", choices=["ddim", "dpm++", "unipc"])
    model.add_argument("--steps", type=positive, help="denoising steps")
    model.add_argument(
        "--guidance", type=at_least_one, help="classifier-free guidance scale; 1 turns it off"
    )
    model.add_argument(
        "--conditioning-scale",
        type=number(0, math.inf),
        help="factor on the ControlNet's residuals; higher follows the mask more closely",
    )
    parser.add_argument(
        "--pixel",
        type=positive_number,
        help="pixel size of vector data or of a mask without georeference, metres; default: the"
        " model's",
    )
    parser.add_argument(
        "--mapping",
        help="for vector data: osm, cosia, or a YAML file that says which features become which"
        " class",
    )
    parser.add_argument(
        "--bounds",
        nargs=4,
        type=number(-math.inf, math.inf),
        metavar=("WEST", "SOUTH", "EAST", "NORTH"),
        help="area to draw of vector data, in their CRS; default: all",
    )
    parser.add_argument(
        "--off-palette",
        type=number(0, 1),
        default=0.01,
        help="largest allowed share of pixels whose colour is not a class's (default 0.01)",
    )
    add_model_names(parser)


def add_model_names(parser: argparse.ArgumentParser) -> None:
    """--controlnet and --base."""
    parser.add_argument(
        "--controlnet",
        default=str(CONTROLNET),
        help="the model: a folder, OWNER/NAME@REVISION on the hub, or models:/NAME/VERSION of"
        " MLflow",
    )
    parser.add_argument("--base", default=str(ADAPTED_BASE), help="the base model, named likewise")


def sampling_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The sampling settings among a command's arguments, as `Painter.paint` takes them."""
    names = ("negative_prompt", "sampler", "steps", "guidance", "conditioning_scale")
    return {name: getattr(args, name) for name in names}


def number(least: float, most: float) -> Any:
    """An argument's type: a finite number in a range."""

    def parse(value: str) -> float:
        try:
            parsed = float(value)
        except ValueError:
            parsed = math.nan
        if not (math.isfinite(parsed) and least <= parsed <= most):
            allowed = f" from {least:g} to {most:g}" if most < math.inf else f" at least {least:g}"
            allowed = allowed if least > -math.inf else ""
            raise argparse.ArgumentTypeError(f"{value!r} is not a number{allowed}")
        return parsed

    return parse


def positive_number(value: str) -> float:
    """An argument's type: a finite number above 0."""
    parsed: float = number(0, math.inf)(value)
    if parsed == 0:
        raise argparse.ArgumentTypeError(f"{value!r} is not a number above 0")
    return parsed


at_least_one = number(1, math.inf)


def positive(value: str) -> int:
    """An argument's type: a whole number above 0."""
    if not value.isdecimal() or int(value) < 1:
        raise argparse.ArgumentTypeError(f"{value!r} is not a whole number above 0")
    return int(value)


def non_negative(value: str) -> int:
    """An argument's type: a whole number from 0."""
    if not value.isdecimal():
        raise argparse.ArgumentTypeError(f"{value!r} is not a whole number from 0")
    return int(value)


def text(value: str) -> str:
    """An argument's type: text that arrived in the terminal's encoding."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(
            f"{value!r} is not valid text in this terminal's encoding; set LC_ALL=C.UTF-8"
        ) from None
    return value
