"""evaluate-FID: weights of the FID Inception, and metrics that cannot be computed."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from aerialdreams.data.images import write_image
from aerialdreams.errors import UserError
from aerialdreams.evaluation.feature_spaces import InceptionFeatures, load_inception
from aerialdreams.evaluation.image_sets import ONE_SAMPLE, ImageSet, distances, diversity
from aerialdreams.evaluation.metrics import miou_of_real
from aerialdreams.generation.outputs import MANIFEST, read_generated
from aerialdreams.params import Params
from aerialdreams.paths import GENERATED
from aerialdreams.util.files import read_json
from tests.conftest import changed

CPU = torch.device("cpu")
IMAGE = np.zeros((64, 64, 3), np.uint8)


class StandIn(torch.nn.Module):
    """A TorchScript network with the FID Inception's signature. Its features are mean colours."""

    def forward(self, images: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        assert return_features and images.dtype == torch.uint8
        return images.float().mean((2, 3))


def inception_of(params: Params, folder: Path) -> InceptionFeatures | None:
    stage = params.evaluate_fid
    return load_inception(stage.inception_weights, stage.inception_sha256, folder, CPU)


def test_no_inception_without_weights(workdir: Path, params: Params) -> None:
    assert inception_of(params, workdir) is None


def test_missing_and_other_weights_are_rejected(workdir: Path, params: Params) -> None:
    with_weights = changed(params, evaluate_fid={"inception_weights": "inception.pt"})
    with pytest.raises(UserError, match=r"inception\.pt: not found"):
        inception_of(with_weights, workdir)
    torch.jit.script(StandIn()).save("inception.pt")
    with pytest.raises(UserError, match=r"inception\.pt: sha256 is .* params\.yaml has f58cb9"):
        inception_of(with_weights, workdir)


def test_features_of_the_right_file(workdir: Path, params: Params) -> None:
    path = workdir / "weights.pt"
    torch.jit.script(StandIn()).save(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with_weights = changed(
        params, evaluate_fid={"inception_weights": str(path), "inception_sha256": digest}
    )
    inception = inception_of(with_weights, workdir)
    assert inception is not None
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    features = inception(images).numpy()
    assert np.allclose(features, images.mean((1, 2)), atol=1e-3)


def test_missing_manifest_is_named(workdir: Path) -> None:
    with pytest.raises(UserError, match=r"manifest\.json: not found; run `dvc repro`"):
        read_json(GENERATED / MANIFEST)


def test_too_few_images_for_a_distance() -> None:
    single, few = (ImageSet(features={"judge": [np.eye(8)[:n]]}) for n in (1, 5))
    report = distances(single, few)
    assert report["judge_frechet_distance"] == "not computed: 1 images are too few"
    report = distances(few, few)
    assert report["judge_frechet_distance"] == pytest.approx(0, abs=1e-6)
    assert report["judge_coverage"] == "not computed: 5 images are too few"
    assert report["fid"] == "not computed: no weights"


def test_diversity_needs_two_samples_of_two_masks() -> None:
    def sets(masks: int) -> dict[str, ImageSet]:
        features = {"judge": [np.eye(8)[:masks]]}
        return {
            name: ImageSet(features=features, differences=[0.1] * masks)
            for name in ("sample-1", "sample-2")
        }

    assert diversity(sets(3), 1)["sample_difference"] == ONE_SAMPLE
    assert diversity(sets(1), 2)["judge_sample_spread"] == ONE_SAMPLE
    assert diversity(sets(3), 2)["sample_difference"] == pytest.approx(0.1)
    assert diversity(sets(3), 2)["judge_sample_spread"] == 0


def test_image_of_another_size_is_rejected(workdir: Path) -> None:
    path = workdir / "data/generated/test/generated/IMG_000001.png"
    write_image(path, IMAGE)
    assert read_generated("test", "generated", "000001", 64).shape == (64, 64, 3)
    with pytest.raises(UserError, match=r"IMG_000001\.png: is 64 x 64 pixels, image_size is 96"):
        read_generated("test", "generated", "000001", 96)
    with pytest.raises(UserError, match=r"untrained/IMG_000001\.png: not found"):
        read_generated("test", "untrained", "000001", 64)


def test_no_ratio_if_the_miou_of_real_images_is_0() -> None:
    resamples = np.array([0.2, 0.4])
    assert miou_of_real(0.3, 0.6, resamples, 2 * resamples)["miou_of_real"] == 0.5
    zero = miou_of_real(0.3, 0.0, resamples, 0 * resamples)
    assert zero == {"miou_of_real": "not computed: mIoU of real images is 0"}
