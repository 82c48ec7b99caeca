"""What the server does for its clients: generates, edits, judges, packs results."""

import base64
import io
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from aerialdreams.data.georeference import GeoReference
from aerialdreams.data.images import write_image
from aerialdreams.data.land_cover import IGNORED, class_ids, mask_to_rgb
from aerialdreams.errors import UserError
from aerialdreams.evaluation.metrics import agreement, confusion
from aerialdreams.generation.edit_files import write_result
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


class Task(NamedTuple):
    """A recipe, decoded.

    Attributes:
        recipe: as it was asked for.
        mask: class ids, (height, width).
        before: class ids before an edit; None if it is none.
        photograph: RGB before the edit; None if there is none yet.
        reference: georeference; None if there is none.
    """

    recipe: Recipe
    mask: NDArray[np.uint8]
    before: NDArray[np.uint8] | None
    photograph: NDArray[np.uint8] | None
    reference: GeoReference | None


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
        self._seconds_per_tile = self._measure_tile()

    def _measure_tile(self) -> float:
        """Generate a tile, to know how long a step takes."""
        mask = np.full((self.info.image_size,) * 2, self.info.conditioning.classes[0].id, np.uint8)
        for _ in range(2):  # the first is slower
            start = time.monotonic()
            self.painter.paint(mask, "", steps=2, on_step=lambda done, steps: None)
            seconds = (time.monotonic() - start) / 2
        return seconds

    def estimate(self, width: int, height: int, steps: int | None, guidance: float | None) -> float:
        """Seconds that an image takes, by the images so far."""
        return self._tile_steps(width, height, steps, guidance) * self._seconds_per_tile

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
        before = photograph = None
        if recipe.start:
            before = decode_mask(recipe.start.mask, recipe.width, recipe.height, self.info)
            if recipe.start.photograph:
                if further := self.info.further.names:
                    raise UserError(
                        "start.photograph: is a PNG, which has no band for the model's"
                        f" {' and '.join(further)}; start from the mask alone, or use"
                        " `aerialdreams edit`"
                    )
                photograph = _decode_photograph(recipe.start.photograph, mask.shape)
            if np.array_equal(before, mask):
                raise UserError("nothing changes: the mask is the one before the edit")
        reference = recipe.place.reference() if recipe.place else None
        task = Task(recipe, mask, before, photograph, reference)
        return lambda job: self._write(job, *self._generate(job, task))

    def _generate(self, job: Job, task: Task) -> tuple[Task, list[NDArray[np.uint8]]]:
        """The images, and the task with the photograph that they were made from."""
        recipe, photograph, done = task.recipe, task.photograph, 0
        names = ("negative_prompt", "sampler", "steps", "guidance", "conditioning_scale")
        settings = {name: getattr(recipe, name) for name in names}
        makes_photograph = task.before is not None and photograph is None
        parts, start = recipe.variations + makes_photograph, time.monotonic()

        def on_step(step: int, steps: int) -> None:
            job.on_step(done * steps + step, parts * steps)

        def paint(mask: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
            return self.painter.paint(mask, recipe.prompt, seed=seed, on_step=on_step, **settings)

        if task.before is not None and photograph is None:
            photograph, done = paint(task.before, recipe.seed), 1
        images = []
        for seed in range(recipe.seed, recipe.seed + recipe.variations):
            if task.before is None or photograph is None:
                images.append(paint(task.mask, seed))
            else:
                changed = task.before != task.mask
                image = edit(
                    self.painter, photograph, task.mask, changed, recipe.prompt, seed,
                    recipe.margin, on_step, **settings,
                )  # fmt: skip
                images.append(image)
            done += 1
        if task.before is None:
            tiles = self._tile_steps(recipe.width, recipe.height, recipe.steps, recipe.guidance)
            self._seconds_per_tile = (time.monotonic() - start) / (tiles * recipe.variations)
        return task._replace(photograph=photograph), images

    def _write(self, job: Job, task: Task, images: list[NDArray[np.uint8]]) -> None:
        recipe = task.recipe.model_copy(update={"model": self.model_md5})
        start, photograph = recipe.start, task.photograph
        # With further bands it is no PNG, and the same recipe makes it again.
        is_png = not self.info.further.names
        if start and photograph is not None and is_png and not start.photograph:
            encoded = base64.b64encode(encode_png(photograph)).decode()
            start = start.model_copy(update={"photograph": encoded})
            recipe = recipe.model_copy(update={"start": start})
        judged = []
        for number, image in enumerate(images, 1):
            write_image(job.folder / f"{number}.png", image[..., :3])
            judged.append(self._judge(job.folder / f"judge-{number}.png", image, task.mask))
        (job.folder / "recipe.json").write_text(recipe.model_dump_json(), encoding="utf-8")
        with zipfile.ZipFile(job.folder / "result.zip", "w") as archive:
            for path in self._write_results(job.folder, task, images):
                archive.write(path, path.name)
            archive.write(job.folder / "recipe.json", "recipe.json")
            archive.writestr("README.txt", README.format(credit=self.info.credit))
        job.result = {
            "images": len(images),
            "judged": judged,
            "georeferenced": task.reference is not None,
        }

    def _write_results(
        self, folder: Path, task: Task, images: list[NDArray[np.uint8]]
    ) -> Iterator[Path]:
        """Write the files of the archive."""
        recipe, reference = task.recipe, task.reference
        classes, has_class = list(self.info.conditioning.classes), task.mask != IGNORED
        tags = synthetic_tags(self.info, self.controlnet, recipe.prompt, recipe.seed)

        def write_photograph(name: str, image: NDArray[np.uint8], own_tags: dict[str, str]) -> Path:
            if not has_class.all():  # pixels without a class are transparent
                image = np.dstack([image, has_class.astype(np.uint8) * 255])
            further = self.info.further
            return write_result(folder / name, image, reference, own_tags, further=further)

        for number, image in enumerate(images, 1):
            yield write_photograph(f"image-{number}", image, tags)
        yield write_result(folder / "mask", task.mask, reference, {}, classes)
        if recipe.start and task.before is not None and task.photograph is not None:
            yield write_photograph("before", task.photograph, {} if recipe.start.real else tags)
            yield write_result(folder / "mask-before", task.before, reference, {}, classes)
            change = (task.before != task.mask).astype(np.uint8) * 255
            yield write_result(folder / "change", change, reference, {})

    @torch.no_grad()
    def _judge(
        self, path: Path, image: NDArray[np.uint8], mask: NDArray[np.uint8]
    ) -> dict[str, Any] | None:
        """Write the judge's map of an image; return how far it agrees with the mask."""
        if self.judge is None:
            return None
        classes, (height, width) = self.info.conditioning.classes, mask.shape
        padding = [(0, -side % JUDGE_MULTIPLE) for side in (height, width)]
        padded = np.pad(image[..., :3], [*padding, (0, 0)], mode="edge")
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
