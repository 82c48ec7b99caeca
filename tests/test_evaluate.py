"""evaluate-FID: the FID Inception is the right file or none."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from aerialdreams.errors import UserError
from aerialdreams.params import Params
from stages.evaluate_FID import features, load_inception, read_manifest
from tests.conftest import changed

CPU = torch.device("cpu")


class Stand(torch.nn.Module):
    """A TorchScript network with the FID Inception's call: mean colours as features."""

    def forward(self, images: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        assert return_features and images.dtype == torch.uint8
        return images.float().mean((2, 3))


def test_no_weights_no_number(workdir: Path, params: Params) -> None:
    assert load_inception(params.evaluate_fid, CPU) is None


def test_other_weights_are_refused(workdir: Path, params: Params) -> None:
    path = workdir / params.evaluate_fid.inception_weights
    path.parent.mkdir()
    torch.jit.script(Stand()).save(path)
    with pytest.raises(UserError, match=r"inception-2015-12-05\.pt: sha256 is .* asks for f58cb9"):
        load_inception(params.evaluate_fid, CPU)


def test_the_right_file_is_used_as_it_asks(workdir: Path, params: Params) -> None:
    path = workdir / "weights.pt"
    torch.jit.script(Stand()).save(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    mine = changed(
        params, evaluate_fid={"inception_weights": str(path), "inception_sha256": digest}
    )
    inception = load_inception(mine.evaluate_fid, CPU)
    assert inception is not None
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    found = features(images, {"inception": inception}, 2)["inception"]
    assert np.allclose(found, images.mean((1, 2)), atol=1e-3)


def test_images_that_are_not_there(workdir: Path) -> None:
    with pytest.raises(UserError, match=r"manifest\.json: .*`dvc repro generate-validation`"):
        read_manifest()
