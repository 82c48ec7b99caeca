"""Makes the docs' pictures of the default run, with a label for each row.

Usage: python docs/images/update.py [bands | SHEET PICTURE], from the project's root, after
`dvc repro`. `bands` makes the picture of a run with near infrared and height. With two arguments:
one column for each patch of another run's sheet, such as that of Dubai.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from aerialdreams.data.contact_sheet import GAP
from aerialdreams.data.dataset import Patch, read_patches
from aerialdreams.data.images import resize_image, resize_mask
from aerialdreams.data.index import read_index
from aerialdreams.data.land_cover import mask_to_rgb
from aerialdreams.generation.outputs import read_generated
from aerialdreams.params import load_params

COLUMNS = 3  # of a sheet: mask, real image, generated image
SIDE = 288  # of an image in a picture, pixels
LABEL = 110  # width of the labels, pixels
LEAST_SHARE = 0.02  # of a patch's pixels, for a class to count
FOLDER = Path("docs/images")
Picture = NDArray[np.uint8]


def columns_of(sheet: Path, picture: Path) -> None:
    """A sheet with one column for each patch instead of one row."""
    parts = columns(sheet)
    step = len(parts[0][0]) + GAP
    height, width = len(parts) * step - GAP, len(parts[0]) * step - GAP
    turned = np.full((height, width, 3), 255, np.uint8)
    for row, images in enumerate(parts):
        for column, image in enumerate(images):
            top, left = row * step, column * step
            turned[top : top + len(image), left : left + len(image)] = image
    Image.fromarray(turned).save(picture, optimize=True)


def columns(sheet: Path) -> list[list[Picture]]:
    """The images of a sheet: a list for each column."""
    pixels = np.array(Image.open(sheet).convert("RGB"))
    step = (pixels.shape[1] + GAP) // COLUMNS
    side = step - GAP
    return [
        [pixels[top : top + side, left : left + side] for top in range(0, len(pixels), step)]
        for left in range(0, COLUMNS * step, step)
    ]


def labelled(rows: dict[str, list[Picture]], path: Path) -> None:
    """Rows of images, each with its label on the left."""
    count = len(next(iter(rows.values())))
    step = SIDE + 2 * GAP
    size = LABEL + count * step - 2 * GAP, len(rows) * step - 2 * GAP
    picture = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(20)
    for row, (label, images) in enumerate(rows.items()):
        draw.text((4, row * step + SIDE / 2), label, "#1d2428", font, anchor="lm")
        for column, image in enumerate(images):
            method = Image.Resampling.NEAREST if label == "mask" else Image.Resampling.BICUBIC
            shown = Image.fromarray(image).resize((SIDE, SIDE), method)
            picture.paste(shown, (LABEL + column * step, row * step))
    if path.suffix == ".jpg":
        picture.save(path, quality=85)
    else:
        picture.quantize(256, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)


def strip() -> Patch:
    """Mask, generated and real image of the patch with most classes of each validation zone."""
    params = load_params()
    size, chosen = params.image_size, dict[tuple[str, str], tuple[int, Patch]]()
    zone_of = zones()
    for patch in read_patches("validation"):
        shares = np.unique(patch.mask, return_counts=True)[1] / patch.mask.size
        classes = int((shares >= LEAST_SHARE).sum())
        zone = zone_of[patch.patch_id]
        if zone not in chosen or classes > chosen[zone][0]:
            chosen[zone] = classes, patch
    patches = [patch for _, patch in chosen.values()]
    masks = [mask_to_rgb(resize_mask(patch.mask, size), params.classes) for patch in patches]
    generated = [read_generated("validation", "generated", p.patch_id, size) for p in patches]
    real = [resize_image(patch.image, size) for patch in patches]
    labelled({"mask": masks, "generated": generated, "real": real}, FOLDER / "validation.png")
    return patches[0]


def zones() -> dict[str, tuple[str, str]]:
    """Group and zone of each patch."""
    index = read_index(["patch_id", "group", "zone"])
    pairs = zip(index["group"], index["zone"], strict=True)
    return dict(zip(index["patch_id"], pairs, strict=True))


def variations(patch: Patch) -> None:
    """One mask with two prompts and two seeds."""
    params = load_params()
    mask = mask_to_rgb(resize_mask(patch.mask, params.image_size), params.classes)
    prompts = {"caption": patch.caption, "no caption": "Aerial view."}
    rows = {
        label: [mask, *(paint(patch.mask, prompt, seed) for seed in (1, 2))]
        for label, prompt in prompts.items()
    }
    labelled(rows, FOLDER / "variations.png")


def paint(mask: Picture, prompt: str, seed: int) -> Picture:
    """An image by `aerialdreams generate`."""
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder) / "mask.png", Path(folder) / "image.png"
        small = resize_mask(mask, load_params().image_size)
        Image.fromarray(small).save(source)
        command = ["aerialdreams", "generate", source, "--prompt", prompt, "--seed", str(seed)]
        subprocess.run([*command, "--output", result], check=True, stdout=subprocess.DEVNULL)
        return np.array(Image.open(result).convert("RGB"))


def bands() -> None:
    """Rows of masks, and of real and generated images by what is shown of their bands."""
    sheets = {
        label: columns(Path(f"data/generated/validation{suffix}.png"))
        for label, suffix in (("", ""), ("infrared", "_colour_infrared"), ("height", "_height"))
    }
    rows = {"mask": sheets[""][0][:4]}
    for label, (_, real, generated) in sheets.items():
        rows |= {f"{label}\nreal".strip(): real[:4], f"{label}\ngenerated".strip(): generated[:4]}
    labelled(rows, FOLDER / "bands.jpg")


def zone() -> None:
    """A whole zone as one image."""
    with tempfile.TemporaryDirectory() as folder:
        source = next(iter(sorted(Path("data/generated/validation/masks").glob("*.vrt"))))
        result = Path(folder) / "zone.tif"
        command = [
            "aerialdreams",
            "generate",
            source,
            "--prompt",
            "Aerial view.",
            "--output",
            result,
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        image = Image.open(result).convert("RGB")
    shown = image.resize((2 * image.width, 2 * image.height), Image.Resampling.BICUBIC)
    shown.save(FOLDER / "zone.jpg", quality=88)


if __name__ == "__main__":
    if sys.argv[1:] == ["bands"]:
        bands()
    elif len(sys.argv) == 3:
        columns_of(*map(Path, sys.argv[1:]))
    else:
        variations(strip())
        zone()
