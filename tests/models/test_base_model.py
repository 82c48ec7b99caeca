"""base-model from a folder and from a hub: Stable Diffusion's families, small, in their layout."""

import hashlib
import json
from collections.abc import Iterator
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

from aerialdreams.errors import UserError, WorkError
from aerialdreams.generation.batch import GenerationRequest, generate_batch
from aerialdreams.models.stable_diffusion import (
    StableDiffusion,
    encode_prompts,
    load_stable_diffusion,
)
from aerialdreams.models.tiny import new_tokenizer
from aerialdreams.params import Params
from aerialdreams.paths import EMPTY_CAPTION, LATENTS
from aerialdreams.training.controlnet import per_sample_loss
from aerialdreams.training.latents import ControlNetBatches, Draws, LatentSource
from stages import base_model, encode_latents
from tests.conftest import changed
from tests.server import Site, serve
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
    return changed(params, base_model={"source": "folder", "folder": str(folder)})


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

    base = load_stable_diffusion().to(torch.device("cpu"))
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
    rows["text"] = encode_prompts(base, ["Aerial view of France.", "France."])[:, None]
    encode_latents.save(LATENTS / "train-0.safetensors", rows | {"mask": torch.from_numpy(masks)})
    encode_latents.save(LATENTS / EMPTY_CAPTION, {"text": encode_prompts(base, [""])})
    draws = Draws(seed=0, batch_size=2, caption_dropout=0.0, augment=False)
    batch = ControlNetBatches(LatentSource(), draws, base.latent_shape(64), 1000)[0]
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
    with pytest.raises(UserError, match=r"no base model .*diffusion_pytorch_model"):
        base_model.main(of_folder(params, workdir / "theirs"))
    with pytest.raises(UserError, match=r"base_model\.folder: 'nowhere' is no folder"):
        base_model.main(of_folder(params, Path("nowhere")))
    (workdir / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: has no vae, text_encoder, tokenizer, unet, sched"):
        base_model.main(of_folder(params, workdir / "empty"))
    assert not Path("models/base").exists()


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(workdir: Path, params: Params) -> Iterator[Site]:
    """A hub with one model, listed as the real one lists (huggingface.co/docs/hub/api)."""
    save_family("sd21-base", workdir / "theirs", params)
    with serve() as site:
        listed = []
        for path in sorted((workdir / "theirs").rglob("*")):
            if not path.is_file():
                continue
            name, body = path.relative_to(workdir / "theirs").as_posix(), path.read_bytes()
            entry: dict[str, Any] = {"rfilename": name, "size": len(body)}
            if name.endswith(".safetensors"):
                entry["lfs"] = {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body)}
            listed.append(entry)
            site.files[f"our/model/resolve/{COMMIT}/{name}"] = body
        answer = json.dumps({"sha": COMMIT, "siblings": listed}).encode()
        site.files["api/models/our/model/revision/main?blobs=true"] = answer
        yield site


def of_hub(params: Params, site: Site) -> Params:
    return changed(params, base_model={"source": "hub", "id": "our/model", "hub": site.url})


def test_a_model_of_the_hub(hub: Site, workdir: Path, params: Params) -> None:
    hub.faults = ["", "cut 2000", "503"]
    said = base_model.main(of_hub(params, hub))
    assert said.startswith("our/model at 0123456789ab: VAE of")
    about = json.loads(Path("models/base/source.json").read_text())
    assert (about["id"], about["commit"], about["license"]) == ("our/model", COMMIT, "openrail++")
    assert not any("ckpt" in path or "fp16" in path for _, path, _ in hub.requests)
    base: StableDiffusion = load_stable_diffusion()
    assert base.text_encoder.config.hidden_size == FAMILIES["sd21-base"]["width"]
    # Again: one look at the listing, and no file.
    hub.requests.clear()
    base_model.main(of_hub(params, hub))
    assert [path for _, path, _ in hub.requests] == [
        "api/models/our/model/revision/main?blobs=true"
    ]


def test_wrong_bytes_of_the_hub_are_refused(hub: Site, params: Params) -> None:
    name = f"our/model/resolve/{COMMIT}/unet/diffusion_pytorch_model.safetensors"
    body = bytearray(hub.files[name])
    body[-1] ^= 1
    hub.files[name] = bytes(body)
    with pytest.raises(WorkError, match=r"model\.safetensors: what came has sha256"):
        base_model.main(of_hub(params, hub))
    assert not Path("models/base").exists()


def test_a_model_that_is_gone_or_a_hub_that_is_not_there(hub: Site, params: Params) -> None:
    gone = changed(of_hub(params, hub), base_model={"id": "stabilityai/stable-diffusion-2-1"})
    with pytest.raises(UserError, match=r"404; it is gone .*Manojb/stable-diffusion-2-1-base has"):
        base_model.main(gone)
    nowhere = changed(of_hub(params, hub), base_model={"hub": "http://127.0.0.1:9"})
    with pytest.raises(WorkError, match=r"cannot be reached .* set base_model\.source to folder"):
        base_model.main(nowhere)
