"""What the server does for its clients: generates, edits, judges, packs results."""

import base64
import io
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from aerialdreams.data.georeference import GeoReference
from aerialdreams.data.images import write_image, write_mask
from aerialdreams.data.land_cover import IGNORED, class_ids, mask_to_rgb
from aerialdreams.data.rasters import write_geotiff
from aerialdreams.errors import UserError
from aerialdreams.evaluation.metrics import agreement, confusion
from aerialdreams.generation.editing import edit
from aerialdreams.generation.painter import Painter
from aerialdreams.models.model_info import synthetic_tags
from aerialdreams.models.segmenter import load_segmenter
from aerialdreams.models.tensors import images_to_tensor
from aerialdreams.serve.grounds import decode_mask
from aerialdreams.serve.jobs import Job
from aerialdreams.serve.recipes import Recipe
from aerialdreams.util.files import dvc_md5

JUDGE_MULTIPLE = 32  # sides that segmenters take
README = """\
SYNTHETIC: made by AerialDreams from a land-cover mask; shows no real place.

image-N.*        the images, of the seeds in recipe.json and the following ones
mask.*           class ids
before.*         for an edit: the image before
mask-before.*    for an edit: its class ids
change.*         for an edit: 255 where the class changes
recipe.json      makes the same images again: load it into the page or send it to /api/jobs

Model trained on {credit}
"""


class Studio:
    """A model, its judge, and how fast they are.

    Args:
        controlnet: folder of the ControlNet.
        base: folder of the base model.
        judge: folder of a segmenter; if it has none, images are not judged.
    """

    def __init__(self, controlnet: Path, base: Path, judge: Path) -> None:
        self.painter = Painter(controlnet, base)
        self.controlnet, self.info = controlnet, self.painter.info
        self.model_md5 = dvc_md5(controlnet)
        device = self.painter.base.unet.device
        self.judge = load_segmenter(judge).to(device) if (judge / "config.json").exists() else None
        self._seconds_per_tile: float | None = None
        self._lock = threading.Lock()

    def warm_up(self) -> None:
        """Generate a tile, to know how long one takes."""
        mask = np.full((self.info.image_size,) * 2, self.info.conditioning.classes[0].id, np.uint8)
        for _ in range(2):  # the first is slower
            start = time.monotonic()
            self.painter.paint(mask, "", steps=2, on_step=lambda done, steps: None)
            self._seconds_per_tile = (time.monotonic() - start) / 2

    def estimate(self, width: int, height: int, steps: int | None, guidance: float | None) -> float:
        """Seconds that an image takes, by the images so far."""
        return self._tile_steps(width, height, steps, guidance) * (self._seconds_per_tile or 0.1)

    def _tile_steps(
        self, width: int, height: int, steps: int | None, guidance: float | None
    ) -> int:
        size, sampling = self.info.image_size, self.info.sampling
        rows, columns = (max(1, -(-(side - size) // (size // 2)) + 1) for side in (height, width))
        passes = 2 if (guidance or sampling.guidance) > 1 else 1
        return int(rows * columns * (steps or sampling.steps) * passes)

    def run(self, recipe: Recipe) -> Callable[[Job], None]:
        """The work of a job; the recipe is checked before it waits.

        Raises:
            UserError: a mask, the photograph or the place is invalid, or the recipe is of another
                model.
        """
        if recipe.model and recipe.model != self.model_md5:
            raise UserError(
                "the recipe was made with another model, which gives other images; remove its"
                " `model` to use it with this one"
            )
        mask = decode_mask(recipe.mask, recipe.width, recipe.height, self.info)
        before = None
        photograph = None
        if recipe.start:
            before = decode_mask(recipe.start.mask, recipe.width, recipe.height, self.info)
            if recipe.start.photograph:
                photograph = _decode_photograph(recipe.start.photograph, mask.shape)
            if np.array_equal(before, mask):
                raise UserError("nothing changes: the mask is the one before the edit")
        reference = recipe.place.reference() if recipe.place else None

        def work(job: Job) -> None:
            self._generate(job, recipe, mask, before, photograph, reference)

        return work

    def _generate(
        self,
        job: Job,
        recipe: Recipe,
        mask: NDArray[np.uint8],
        before: NDArray[np.uint8] | None,
        photograph: NDArray[np.uint8] | None,
        reference: GeoReference | None,
    ) -> None:
        names = ("negative_prompt", "sampler", "steps", "guidance", "conditioning_scale")
        settings = {name: getattr(recipe, name) for name in names}
        start, whole = time.monotonic(), before is None
        parts = recipe.variations + (before is not None and photograph is None)
        images, done = [], 0

        def on_step(step: int, steps: int) -> None:
            job.on_step(done * steps + step, parts * steps)

        if before is not None and photograph is None:
            photograph = self.painter.paint(
                before, recipe.prompt, seed=recipe.seed, on_step=on_step, **settings
            )
            done += 1
        for seed in range(recipe.seed, recipe.seed + recipe.variations):
            if before is None or photograph is None:
                image = self.painter.paint(
                    mask, recipe.prompt, seed=seed, on_step=on_step, **settings
                )
            else:
                changed = before != mask
                image = edit(
                    self.painter, photograph, mask, changed, recipe.prompt, seed, recipe.margin,
                    on_step, **settings,
                )  # fmt: skip
            done += 1
            images.append(image)
        if whole:
            tiles = self._tile_steps(recipe.width, recipe.height, recipe.steps, recipe.guidance)
            self._seconds_per_tile = (time.monotonic() - start) / (tiles * recipe.variations)
        self._write(job, recipe, mask, before, photograph, images, reference)

    def _write(
        self,
        job: Job,
        recipe: Recipe,
        mask: NDArray[np.uint8],
        before: NDArray[np.uint8] | None,
        photograph: NDArray[np.uint8] | None,
        images: list[NDArray[np.uint8]],
        reference: GeoReference | None,
    ) -> None:
        recipe = recipe.model_copy(update={"model": self.model_md5})
        if recipe.start and photograph is not None and not recipe.start.photograph:
            start = recipe.start.model_copy(
                update={"photograph": base64.b64encode(encode_png(photograph)).decode()}
            )
            recipe = recipe.model_copy(update={"start": start})
        judged = []
        for number, image in enumerate(images, 1):
            write_image(job.folder / f"{number}.png", image)
            judged.append(self._judge(job.folder / f"judge-{number}.png", image, mask))
        (job.folder / "recipe.json").write_text(recipe.model_dump_json(), encoding="utf-8")
        with self._lock, zipfile.ZipFile(job.folder / "result.zip", "w") as archive:
            arrays = {f"image-{number}": image for number, image in enumerate(images, 1)}
            arrays["mask"] = mask
            if before is not None and photograph is not None:
                arrays |= {"before": photograph, "mask-before": before}
                arrays["change"] = (before != mask).astype(np.uint8) * 255
            for name, array in arrays.items():
                path = self._file(job.folder, name, array, recipe, reference)
                archive.write(path, path.name)
            archive.write(job.folder / "recipe.json", "recipe.json")
            archive.writestr("README.txt", README.format(credit=self.info.credit))
        job.result = {
            "images": len(images),
            "judged": judged,
            "georeferenced": reference is not None,
        }

    def _file(
        self,
        folder: Path,
        name: str,
        array: NDArray[np.uint8],
        recipe: Recipe,
        reference: GeoReference | None,
    ) -> Path:
        """A result as GeoTIFF where there is a georeference, else as PNG."""
        classes, is_mask = list(self.info.conditioning.classes), name.startswith("mask")
        # Pixels without a class are transparent in images.
        mask = decode_mask(recipe.mask, recipe.width, recipe.height, self.info)
        if array.ndim == 3 and (mask == IGNORED).any():
            array = np.dstack([array, (mask != IGNORED).astype(np.uint8) * 255])
        if reference:
            path = folder / f"{name}.tif"
            tags = synthetic_tags(self.info, self.controlnet, recipe.prompt, recipe.seed)
            is_real = name == "before" and bool(recipe.start and recipe.start.real)
            own = {} if is_mask or name == "change" or is_real else tags
            write_geotiff(path, array, reference, own, classes if is_mask else None)
            return path
        path = folder / f"{name}.png"
        if is_mask:
            write_mask(path, array, classes)
        else:
            write_image(path, array)
        return path

    @torch.no_grad()
    def _judge(
        self, path: Path, image: NDArray[np.uint8], mask: NDArray[np.uint8]
    ) -> dict[str, Any] | None:
        """Write the judge's map of an image; return how far it agrees with the mask."""
        if self.judge is None:
            return None
        classes, (height, width) = self.info.conditioning.classes, mask.shape
        padding = [(0, -side % JUDGE_MULTIPLE) for side in (height, width)]
        padded = np.pad(image, [*padding, (0, 0)], mode="edge")
        logits = self.judge(images_to_tensor(padded[None]).to(self.painter.base.unet.device))
        positions = logits.argmax(1)[0, :height, :width].cpu().numpy()
        ids = np.array(class_ids(classes), np.uint8)[positions]
        write_image(path, mask_to_rgb(ids, classes))
        matrix = confusion(mask, ids, class_ids(classes))
        report = agreement(matrix, [row.name for row in classes])
        return {"miou": report["miou"], "pixel_accuracy": report["pixel_accuracy"]}


def _decode_photograph(text: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The photograph of a recipe, checked by its header before it is decoded."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"]) as file:
            if file.size != shape[::-1]:
                raise UserError(
                    f"start.photograph: has {file.size[0]} x {file.size[1]} pixels, the mask"
                    f" {shape[1]} x {shape[0]}"
                )
            return np.array(file.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"start.photograph: is no PNG in base64 ({error})") from None


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """An image as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
