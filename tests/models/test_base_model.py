"""base-model from a folder and from a hub: Stable Diffusion's families, small, in their layout."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel

from aerialdreams.errors import UserError
from aerialdreams.generation.batch import GenerationRequest, generate_batch
from aerialdreams.models.families import encode_prompts, load_base
from aerialdreams.models.stable_diffusion import StableDiffusion
from aerialdreams.models.tiny import new_tokenizer
from aerialdreams.params import Params
from aerialdreams.paths import BASE, EMPTY_CAPTION, LATENTS
from aerialdreams.training.controlnet import per_sample_loss
from aerialdreams.training.latents import Draws, LatentSource, TrainingBatches
from stages import base_model, encode_latents
from tests.conftest import changed
from tests.hub import COMMIT, Hub, serve_hub
from tests.tiny import conditioning_of, new_model, sampling_of

# What tells the families apart (their repositories' configs): scheduler, prediction, text encoder.
FAMILIES: dict[str, dict[str, Any]] = {
    "sd15": {"scheduler": PNDMScheduler, "prediction": "epsilon", "width": 24, "linear": False},
    "sd21-base": {"scheduler": PNDMScheduler, "prediction": "epsilon", "width": 32, "linear": True},
    "sd21": {"scheduler": DDIMScheduler, "prediction": "v_prediction", "width": 32, "linear": True},
}
SCALING = 0.18215


def save_family(name: str, folder: Path, params: Params) -> None:
    """A model with random weights in the layout of one of the families."""
    torch.manual_seed(0)
    family = FAMILIES[name]
    tokenizer = new_tokenizer(["Aerial view of France."], params.base_model.tiny.text.vocabulary)
    widths = (8, 8, 16, 16)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=family["width"],
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        hidden_act="gelu" if family["linear"] else "quick_gelu",
    )
    StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=widths,
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            latent_channels=4,
            norm_num_groups=4,
            scaling_factor=SCALING,
        ),
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(
            sample_size=8,
            block_out_channels=widths,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            layers_per_block=1,
            norm_num_groups=4,
            cross_attention_dim=family["width"],
            attention_head_dim=[2, 2, 4, 4] if family["linear"] else 4,
            use_linear_projection=family["linear"],
        ),
        scheduler=family["scheduler"](
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            prediction_type=family["prediction"],
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: openrail++\n---\n# A model\n")
    # What repositories have beside it, and nobody needs.
    (folder / "v2-1_512-ema-pruned.ckpt").write_bytes(b"x" * 1000)
    (folder / "unet/diffusion_pytorch_model.fp16.safetensors").write_bytes(b"x" * 1000)
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker/model.safetensors").write_bytes(b"x" * 1000)


def of_folder(params: Params, folder: Path) -> Params:
    return changed(params, base_model={"source": "folder", "input": str(folder)})


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_each_family_is_taken_trained_on_and_drawn_with(
    name: str, workdir: Path, params: Params
) -> None:
    save_family(name, workdir / "theirs", params)
    said = base_model.main(of_folder(params, workdir / "theirs"))
    assert said.endswith(FAMILIES[name]["prediction"])
    names = {p.relative_to("models/base").as_posix() for p in Path("models/base").rglob("*.*")}
    assert "unet/diffusion_pytorch_model.safetensors" in names
    assert not any("ckpt" in name or "fp16" in name or "safety" in name for name in names)
    about = json.loads(Path("models/base/source.json").read_text())
    assert (about["source"], about["license"]) == ("folder", "openrail++")
    weights = Path("models/base/vae/diffusion_pytorch_model.safetensors").read_bytes()
    sha256 = about["sha256"]["vae/diffusion_pytorch_model.safetensors"]
    assert sha256 == hashlib.sha256(weights).hexdigest()

    base = load_base(BASE).to(torch.device("cpu"))
    assert base.scheduler.config["prediction_type"] == FAMILIES[name]["prediction"]
    assert base.vae.config["scaling_factor"] == SCALING
    small = changed(
        params,
        image_size=64,
        train_controlnet={
            "embedding_channels": [8, 8, 16, 16],
            "batch_size": 2,
            "caption_dropout": 0.0,
        },
    )
    model, conditioning = new_model(small, base), conditioning_of(small)
    masks = np.full((2, 64, 64), 5, np.uint8)
    rows = {"mean": torch.zeros(2, 1, 4, 8, 8), "std": torch.ones(2, 1, 4, 8, 8)}
    texts = encode_prompts(base, ["Aerial view of France.", "France."])
    rows["text"] = texts["text"][:, None]
    encode_latents.save(LATENTS / "train-0.safetensors", rows | {"mask": torch.from_numpy(masks)})
    encode_latents.save(LATENTS / EMPTY_CAPTION, encode_prompts(base, [""]))
    draws = Draws(seed=0, batch_size=2, caption_dropout=0.0, augment=False)
    batch = TrainingBatches(LatentSource(), draws, base.latent_shape(64), 1000)[0]
    loss = per_sample_loss(model, base, conditioning, batch).mean()
    loss.backward()
    assert 0.1 < loss.item() < 10
    requests = [
        GenerationRequest(name, mask, "France.") for name, mask in zip("ab", masks, strict=True)
    ]
    sampling = sampling_of(small, steps=2)
    images = generate_batch(base, model.controlnet.eval(), conditioning, requests, sampling, 0)
    assert images.shape == (2, 64, 64, 3) and images.std() > 0


def test_a_folder_without_a_part_is_named(workdir: Path, params: Params) -> None:
    save_family("sd15", workdir / "theirs", params)
    (workdir / "theirs/unet/diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"theirs/unet: has no diffusion_pytorch_model\.saf"):
        base_model.main(of_folder(params, workdir / "theirs"))
    with pytest.raises(UserError, match=r"base_model\.input: 'nowhere' is not a folder"):
        base_model.main(of_folder(params, Path("nowhere")))
    (workdir / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: has no vae, text_encoder, tokenizer, unet, sched"):
        base_model.main(of_folder(params, workdir / "empty"))
    assert not Path("models/base").exists()


Break = Callable[[Path], object]


def rename_weights(folder: Path, suffix: str) -> None:
    for path in folder.rglob("*.safetensors"):
        path.rename(path.with_name(path.name.replace(".safetensors", suffix)))


def edit_config(folder: Path, part: str, **values: object) -> None:
    path = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def replace_unet(folder: Path, **values: Any) -> None:
    shutil.rmtree(folder / "unet")
    UNet2DConditionModel(
        block_out_channels=(8, 8),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=4,
        **{"cross_attention_dim": 24} | values,
    ).save_pretrained(folder / "unet")


def cut(folder: Path) -> None:
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
BROKEN: dict[str, tuple[Break, str]] = {
    "fp16_only": (lambda f: rename_weights(f, ".fp16.safetensors"), "full precision, only .*fp16"),
    "bin_only": (lambda f: rename_weights(f, ".bin"), r"full precision, only .*\.bin; .*convert"),
    "lfs": (
        lambda f: (f / "unet/diffusion_pytorch_model.safetensors").write_bytes(POINTER),
        r"is a Git LFS pointer; run `git lfs pull`",
    ),
    "truncated": (cut, "unet"),
    "inpainting": (lambda f: replace_unet(f, in_channels=9), "UNet takes 9 channels"),
    "out": (lambda f: replace_unet(f, out_channels=8), "UNet gives 8 channels"),
    "sdxl": (
        lambda f: replace_unet(
            f,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=64,
        ),
        "second text encoder or image sizes, as SDXL",
    ),
    "other_text": (lambda f: replace_unet(f, cross_attention_dim=32), "has width 24 and its UNet"),
    "labels": (lambda f: replace_unet(f, num_class_embeds=4), "class labels"),
    "sample": (lambda f: edit_config(f, "scheduler", prediction_type="sample"), "'sample'"),
}


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_models_that_do_not_fit_are_refused_by_name(
    name: str, workdir: Path, params: Params
) -> None:
    save_family("sd15", workdir / "theirs", params)
    shutil.rmtree(workdir / "theirs/safety_checker")
    (workdir / "theirs/unet/diffusion_pytorch_model.fp16.safetensors").unlink()
    spoil, message = BROKEN[name]
    spoil(workdir / "theirs")
    with pytest.raises(UserError, match=message) as caught:
        base_model.main(of_folder(params, workdir / "theirs"))
    assert "theirs" in str(caught.value)
    assert "base.partial" not in str(caught.value)
    assert not Path("models/base").exists()


def test_shards_and_linked_parts_are_taken(workdir: Path, params: Params) -> None:
    save_family("sd15", workdir / "theirs", params)
    unet = UNet2DConditionModel.from_pretrained(workdir / "theirs/unet")
    shutil.rmtree(workdir / "theirs/unet")
    unet.save_pretrained(workdir / "elsewhere", max_shard_size="20KB")
    assert len(list((workdir / "elsewhere").glob("*-of-*.safetensors"))) > 1
    (workdir / "theirs/unet").symlink_to(workdir / "elsewhere")
    base_model.main(of_folder(params, workdir / "theirs"))
    ours = load_base(BASE).unet.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in unet.state_dict().items())


def test_a_model_in_the_place_of_the_output_is_not_touched(workdir: Path, params: Params) -> None:
    save_family("sd15", Path("models/base"), params)
    before = sorted(Path("models/base").rglob("*"))
    with pytest.raises(UserError, match=r"base_model\.input: models/base is, holds or lies in"):
        base_model.main(of_folder(params, Path("models/base")))
    assert sorted(Path("models/base").rglob("*")) == before


@pytest.fixture
def hub(workdir: Path, params: Params, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one model, and what its repository has beside it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(workdir / "hub"))
    save_family("sd21-base", workdir / "theirs", params)
    with serve_hub("models/our/model", monkeypatch) as running:
        for path in (workdir / "theirs").rglob("*"):
            if path.is_file():
                running.files[path.relative_to(workdir / "theirs").as_posix()] = path.read_bytes()
        yield running


def of_hub(params: Params) -> Params:
    return changed(
        params, base_model={"source": "hub", "id": "our/model", "input": "data/external"}
    )


def test_a_model_of_the_hub(hub: Hub, params: Params) -> None:
    summary = base_model.main(of_hub(params))
    assert summary.startswith("our/model at 0123456789ab: VAE of")
    about = json.loads(Path("models/base/source.json").read_text())
    assert (about["id"], about["commit"], about["license"]) == ("our/model", COMMIT, "openrail++")
    assert not any(path.is_symlink() for path in Path("models/base").rglob("*"))
    assert not any("ckpt" in path or "fp16" in path for path in hub.requests)
    base = load_base(BASE)
    assert isinstance(base, StableDiffusion)
    assert base.text_encoder.config.hidden_size == FAMILIES["sd21-base"]["width"]


def test_damaged_weights_are_refused_before_anything_is_replaced(hub: Hub, params: Params) -> None:
    hub.files["unet/diffusion_pytorch_model.safetensors"] = b"not weights"
    with pytest.raises(UserError, match=r"unet"):
        base_model.main(of_hub(params))
    assert not Path("models/base").exists()


def test_a_local_model_is_loaded_without_a_request(hub: Hub, workdir: Path, params: Params) -> None:
    base_model.main(of_folder(params, workdir / "theirs"))
    load_base(BASE)
    assert hub.requests == []
