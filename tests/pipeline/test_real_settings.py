"""The settings of the real thing on stand-ins: `flair sd21 adapted gpu`, and with `sdxl`, `bands`.

Every stage runs at 512 and 1024 pixels. Tiles in FLAIR's layout, a base model in Stable Diffusion
2.1's or SDXL's layout with narrow networks, and a segmenter checkpoint in IGN's layout with random
weights. Steps and counts are cut.
"""

import hashlib
import json
from pathlib import Path

import pytest
import rasterio
import torch

from aerialdreams.models.ign_segmenter import PREFIX, IgnSegmenter
from aerialdreams.params import load_params
from tests.conftest import ROOT
from tests.models.test_base_model import save_family
from tests.projects import git_clone, params_of, run, run_stages, set_params
from tests.tiny import save_base, tiny_sdxl


def write_segmenter(path: Path) -> str:
    """A checkpoint in the layout of IGN's; gives its sha256."""
    torch.manual_seed(0)
    weights = {f"{PREFIX}{name}": value for name, value in IgnSegmenter().state_dict().items()}
    torch.save({"state_dict": weights}, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


SIZES = {"sd21": 512, "sdxl": 1024}  # pixels


@pytest.mark.parametrize(
    ("name", "further"),
    [
        ("sd21", []),
        pytest.param("sdxl", [], marks=pytest.mark.large),
        pytest.param("sd21", ["bands"], marks=pytest.mark.large),
    ],
)
def test_real_settings_run_on_stand_ins(
    name: str, further: list[str], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    git_clone(ROOT, project)
    done = run(project, "aerialdreams", "settings", "flair", name, "adapted", *further, "gpu")
    assert done.returncode == 0, done.stderr
    inputs = project / "data/external"
    params = load_params(ROOT / "params.yaml")
    if name == "sdxl":
        save_base(tiny_sdxl(params, ["Aerial view."], (8, 8, 16, 16)), inputs / "base")
    else:
        save_family("sd21-base", inputs / "base", params)
    (project / "osm").symlink_to(whole / "data/raw")
    real = params_of(project)
    set_params(
        project,
        {
            "runtime": {"checkpoint_every": 1, "loaders": 1},
            "raw_patches": {"source": "folder", "folder": str(whole / "data/raw")},
            "base_model": {"source": "folder", "input": "data/external/base"},
            "train_segmenter": {
                "steps": 2,  # of sdxl's, which trains it
                "batch_size": 1,
                "ign": {
                    "file": "data/external/segmenter.pth",
                    "sha256": write_segmenter(inputs / "segmenter.pth"),
                },
            },
            "adapt_base": {
                "steps": 2,
                "batch_size": 2,
                "gradient_accumulation": 2,
                "autoencoder": {"steps": 2 * len(further), "batch_size": 2},
            },
            "encode_latents": {"batch_size": 1, "validation_patches": 1},
            "train_controlnet": {
                "steps": 2,
                "batch_size": 2,
                "gradient_accumulation": 2,
                "validation_every": 1,
                "sampling": {"steps": 2},
            },
            "tracking": {"log_every": 1, "images_every": 2, "images": 1},
            "generate_validation": {
                "batch_size": 1,
                "grid_rows": 1,
                "masks": 1,
                "extra_masks": 1,
            },
            "evaluate_fid": {"inception_weights": ""},  # a download
            "evaluate_utility": {"steps": 2, "seeds": 2},
        },
    )
    monkeypatch.chdir(project)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    run_stages(load_params())
    evaluation = json.loads((project / "metrics/evaluation.json").read_text())
    assert evaluation["test"]["generated"]["n"] == 1
    image = next((project / "data/generated/test/generated").glob("*.tif"))
    with rasterio.open(image) as opened:
        assert opened.shape == (SIZES[name], SIZES[name])
        assert opened.count == (5 if further else 3)
        assert opened.res == (102.4 / SIZES[name], 102.4 / SIZES[name])
    # What was cut is speed and number alone.
    cut = params_of(project)
    for group, key in (
        ("adapt_base", "precision"),
        ("adapt_base", "lora_rank"),
        ("train_controlnet", "precision"),
        ("train_controlnet", "embedding_channels"),
        ("encode_latents", "precision"),
        ("train_segmenter", "source"),
    ):
        assert cut[group][key] == real[group][key]
    assert (cut["image_size"], cut["inference_precision"]) == (SIZES[name], "bf16")
