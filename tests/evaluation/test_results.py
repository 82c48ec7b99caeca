"""Evaluation of images with known quality, and the report in a browser."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from aerialdreams.data.dataset import read_patches
from aerialdreams.data.images import read_image, resize_image, resize_mask, write_image
from aerialdreams.data.land_cover import class_ids
from aerialdreams.evaluation import image_sets
from aerialdreams.evaluation.batches import Judges
from aerialdreams.evaluation.feature_spaces import SegmenterFeatures
from aerialdreams.generation.batch import reconstruct
from aerialdreams.models.latent_diffusion import load_vae
from aerialdreams.params import load_params
from aerialdreams.pipeline.distributed import SINGLE_PROCESS
from stages import evaluate_FID

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def test_evaluation_of_images_with_known_quality(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real images are perfect, real images of other masks worse, untrained ones the baseline."""
    for part in ("data/dataset", "data/generated", "models/adapted_base", "models/segmenter"):
        shutil.copytree(whole / part, tmp_path / part)
    monkeypatch.chdir(tmp_path)
    params, vae = load_params(whole / "params.yaml"), load_vae()
    generated = tmp_path / "data/generated/validation/generated"
    patches = list(read_patches("validation"))
    real = [resize_image(patch.image, params.image_size) for patch in patches]

    def evaluate(images: list[NDArray[np.uint8]]) -> dict:
        for patch, image in zip(patches, images, strict=True):
            write_image(generated / f"IMG_{patch.patch_id}.png", image)
        segmenter = SegmenterFeatures(torch.device("cpu"), class_ids(params.classes))
        spaces = {"judge": segmenter}
        train = evaluate_FID.train_features(spaces, params, SINGLE_PROCESS)
        sets, _ = evaluate_FID.evaluation_sets(
            "validation",
            params.generate_validation,
            Judges(segmenter),
            spaces,
            vae,
            params,
            SINGLE_PROCESS,
        )
        report: dict = image_sets.evaluate(sets, train, 2, [c.name for c in params.classes])
        return report

    perfect = evaluate(real)
    for key, value in perfect["real"].items():
        assert perfect["generated"][key] == value
    assert perfect["generated"]["miou_of_real"] == 1
    assert perfect["generated"]["judge_frechet_distance"] == pytest.approx(0, abs=1e-6)
    assert perfect["generated"]["judge_nearest_train_of_real"] == 1
    shuffled = evaluate([*real[1:], real[0]])
    assert shuffled["generated"]["pixel_accuracy"] < perfect["real"]["pixel_accuracy"] - 0.05
    assert shuffled["generated"]["judge_frechet_distance"] == pytest.approx(0, abs=1e-6)
    through = evaluate(list(reconstruct(vae, np.stack(real))))
    for key, value in through["reconstructed"].items():
        assert through["generated"][key] == value
    untrained = generated.parent / "untrained"
    baseline = evaluate([read_image(untrained / f"IMG_{p.patch_id}.png") for p in patches])
    for key, value in baseline["untrained"].items():
        assert baseline["generated"][key] == value


def browser(folder: Path) -> list[str]:
    """Command line of headless Chromium with its profile in `folder`; append the page to open."""
    return [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
        "--disable-background-networking", f"--user-data-dir={folder / 'profile'}",
        "--window-size=1200,1600",
    ]  # fmt: skip


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on the PATH")
def test_report_opens_in_a_browser(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page shows its images without loading anything else."""
    shot = tmp_path / "report.png"
    page = (whole / "data/report.html").as_uri()
    command = [*browser(tmp_path), f"--screenshot={shot}", page]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    pixels = np.asarray(Image.open(shot).convert("RGB"))
    classes = load_params(whole / "params.yaml").classes
    monkeypatch.chdir(whole)
    masks = np.stack([resize_mask(p.mask, 64) for p in read_patches("validation")])
    for number in np.unique(masks):
        if (masks == number).sum() > 200:
            assert (pixels == classes[number - 1].rgb).all(2).any(), classes[number - 1].name
    assert ((pixels == 255).all(2)).mean() < 0.95
