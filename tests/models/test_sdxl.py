"""SDXL, small: from base-model to generated images, as diffusers' own pipelines do it."""

import json
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from safetensors.torch import load_file

from aerialdreams import Painter
from aerialdreams.cli import main
from aerialdreams.data.images import read_image, write_mask
from aerialdreams.data.land_cover import palette
from aerialdreams.errors import UserError
from aerialdreams.models.controlnet import load_controlnet
from aerialdreams.models.families import encode_prompts, load_base
from aerialdreams.models.latent_diffusion import load_vae
from aerialdreams.models.stable_diffusion_xl import StableDiffusionXL
from aerialdreams.params import Params
from aerialdreams.paths import ADAPTED_BASE, BASE, CONTROLNET, EMPTY_CAPTION, LATENTS
from aerialdreams.training.latents import Draws, LatentSource, TrainingBatches
from aerialdreams.util.files import dvc_md5
from aerialdreams.util.seeding import seeded_generator
from stages import adapt_base, base_model, generate_validation, train_controlnet
from tests.conftest import changed
from tests.hub import serve_hub
from tests.tiny import (
    conditioning_of,
    info_of,
    new_model,
    save_base,
    tiny_sdxl,
    tiny_stable_diffusion,
)
from tests.training.test_train_controlnet import (
    finish,
    new_place,
    prepare,
    settle,
    start,
    trained,
    wait_for,
)

CAPTIONS = ["Aerial view of 3.", "Number 1 from above. " * 20]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Patches of noise, an SDXL of noise and latents; made once."""
    return prepare(tmp_path_factory.mktemp("prepared"), tiny_sdxl)


@pytest.fixture
def place(prepared: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to train in, on what is prepared."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    AcceleratorState._reset_state(reset_partial_state=True)
    return new_place(prepared, workdir)


@pytest.fixture
def steering(place: Path) -> Params:
    """Params of a folder with a ControlNet that steers a little."""
    params = settle(place)
    model = new_model(params, load_base())
    for name, weight in model.controlnet.named_parameters():
        if "controlnet_down" in name or "controlnet_mid" in name or "conv_out" in name:
            weight.data.normal_(0, 0.1)
    model.controlnet.save_pretrained(CONTROLNET)
    info_of(params).save(CONTROLNET)
    return params


@pytest.fixture
def theirs(workdir: Path, params: Params) -> Path:
    """A model as it is published: its scheduler is one for sampling."""
    base = tiny_sdxl(params, CAPTIONS)
    scheduler = EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085,
                                       beta_end=0.012, steps_offset=1)  # fmt: skip
    base.pipeline(scheduler, None).save_pretrained(workdir / "theirs")
    (workdir / "theirs/README.md").write_text("---\nlicense: openrail++\n---\n# A model\n")
    return workdir / "theirs"


def of_folder(params: Params, folder: Path) -> Params:
    return changed(params, base_model={"source": "folder", "input": str(folder)})


def test_a_folder_is_taken(theirs: Path, params: Params) -> None:
    said = base_model.main(of_folder(params, theirs))
    assert re.fullmatch(
        r"VAE of .* M weights, text encoder of .*, text encoder of .*, UNet of .*, epsilon", said
    )
    about = json.loads((BASE / "source.json").read_text())
    assert (
        about["license"] == "openrail++" and "text_encoder_2/model.safetensors" in about["sha256"]
    )
    base = load_base(BASE)
    assert isinstance(base, StableDiffusionXL) and base.empty_is_zero
    schedule = base.scheduler.config
    assert (schedule["beta_end"], schedule["clip_sample"]) == (0.012, False)
    # The parts tell the family, too.
    (theirs / "model_index.json").unlink()
    assert base_model.main(of_folder(params, theirs)) == said


def test_a_vae_is_swapped_in_its_folder(theirs: Path, params: Params) -> None:
    other = tiny_sdxl(changed(params, base_model=seeded(params, 7)), CAPTIONS).vae
    shutil.rmtree(theirs / "vae")
    other.save_pretrained(theirs / "vae")
    base_model.main(of_folder(params, theirs))
    ours = load_base(BASE).vae.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in other.state_dict().items())


def test_a_vae_that_overflows_in_fp16_leaves_it(theirs: Path) -> None:
    latents = torch.randn(1, 4, 8, 8)
    for upcast in (True, False):  # as published, and madebyollin/sdxl-vae-fp16-fix
        config(theirs, "vae", force_upcast=upcast)
        vae = load_vae(theirs)
        exact = vae.decode(latents).sample
        with torch.autocast("cpu", torch.float16):
            half = vae.decode(latents.half().float()).sample
            same = vae.encode(exact).latent_dist.mean
        with torch.autocast("cpu", torch.bfloat16):
            rounded = vae.encode(exact).latent_dist.mean
        assert (half.dtype == torch.float32) == upcast
        assert torch.equal(same.float(), vae.encode(exact).latent_dist.mean) == upcast
        assert rounded.dtype == torch.bfloat16


def seeded(params: Params, seed: int) -> dict[str, Any]:
    """The group base_model with another seed."""
    values = params.base_model.model_dump()
    return values | {"tiny": values["tiny"] | {"seed": seed}}


@pytest.mark.parametrize("zero", [True, False])
def test_captions_are_encoded_as_by_diffusers(zero: bool, params: Params, tmp_path: Path) -> None:
    save_base(tiny_sdxl(params, CAPTIONS), tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    index["force_zeros_for_empty_prompt"] = zero
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    pipeline = StableDiffusionXLPipeline.from_pretrained(tmp_path)
    text, empty, pooled, empty_pooled = pipeline.encode_prompt(CAPTIONS, device="cpu")
    base = load_base(tmp_path)
    ours = encode_prompts(base, [*CAPTIONS, ""])
    assert torch.equal(ours["text"][:2], text) and torch.equal(ours["pooled"][:2], pooled)
    assert torch.equal(ours["text"][2:], empty[:1])
    assert torch.equal(ours["pooled"][2:], empty_pooled[:1])
    assert bool(empty.any()) != zero
    assert ours["text"].shape == (3, 77, 48) and ours["pooled"].shape == (3, 24)
    assert not torch.equal(pooled[0], pooled[1])  # it is read at the end of the caption


def class_name(folder: Path, name: str) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": name}))


def transformer(folder: Path) -> None:
    (folder / "model_index.json").unlink()
    (folder / "transformer").mkdir()
    (folder / "transformer/config.json").write_text('{"_class_name": "SD3Transformer2DModel"}')


def config(folder: Path, part: str, **values: object) -> None:
    path = folder / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def unet(folder: Path, **values: Any) -> None:
    old = UNet2DConditionModel.load_config(folder / "unet")
    shutil.rmtree(folder / "unet")
    UNet2DConditionModel.from_config(old, **values).save_pretrained(folder / "unet")


OTHERS = (
    *("StableDiffusion3Pipeline", "FluxPipeline", "KandinskyV22Pipeline", "PixArtAlphaPipeline"),
    *("StableDiffusionInpaintPipeline", "StableDiffusionXLInpaintPipeline"),
    "StableDiffusionXLImg2ImgPipeline",
)
MISFITS: dict[str, tuple[Callable[[Path], object], str]] = {
    "SD3Transformer2DModel": (transformer, "a SD3Transformer2DModel cannot be the base model"),
    "damaged": (lambda f: (f / "model_index.json").write_text("{"), "model_index.json: cannot be"),
    "sd": (lambda f: class_name(f, "StableDiffusionPipeline"), "second text encoder or image size"),
    "encoder": (lambda f: shutil.rmtree(f / "text_encoder_2"), "has no text_encoder_2"),
    "channels": (lambda f: unet(f, in_channels=9), "UNet takes 9 channels"),
    "text": (
        lambda f: unet(f, cross_attention_dim=40),
        "width 48 together and its UNet expects 40",
    ),
    "refiner": (
        lambda f: unet(f, projection_class_embeddings_input_dim=24 + 5 * 8),
        "other conditions than original size",
    ),
    "plain": (lambda f: unet(f, addition_embed_type=None), "does not take a pooled"),
    "lcm": (lambda f: unet(f, time_cond_proj_dim=8), "LCM"),
    "playground": (lambda f: config(f, "vae", latents_mean=[0.0] * 4), "latents have a mean"),
    "edm": (lambda f: EDMEulerScheduler().save_pretrained(f / "scheduler"), "schedule is EDM's"),
}


@pytest.mark.parametrize("name", [*OTHERS, *MISFITS])
def test_other_models_are_refused_by_name(name: str, theirs: Path, params: Params) -> None:
    spoil, message = MISFITS.get(
        name, (lambda folder: class_name(folder, name), f"a {name} cannot be the base model")
    )
    spoil(theirs)
    with pytest.raises(UserError, match=message) as caught:
        base_model.main(of_folder(params, theirs))
    assert "theirs" in str(caught.value) and "base.partial" not in str(caught.value)
    assert not BASE.exists()


def test_the_hub_gives_what_the_family_needs(
    theirs: Path, workdir: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(workdir / "hub"))
    of_hub = changed(
        params, base_model={"source": "hub", "id": "our/model", "input": "data/external"}
    )
    with serve_hub("models/our/model", monkeypatch) as hub:
        for path in theirs.rglob("*.*"):
            hub.files[path.relative_to(theirs).as_posix()] = path.read_bytes()
        base_model.main(of_hub)
        assert isinstance(load_base(BASE), StableDiffusionXL)
        shutil.rmtree(BASE)
        shutil.rmtree(workdir / "hub")
        hub.requests.clear()
        hub.files["model_index.json"] = b'{"_class_name": "FluxPipeline"}'
        with pytest.raises(
            UserError, match=r"^base_model\.id: our/model: a FluxPipeline cannot be"
        ):
            base_model.main(of_hub)
        assert not any("safetensors" in path for path in hub.requests)


def test_latents_have_what_the_unet_takes(place: Path) -> None:
    shard = load_file(LATENTS / "train-00000-of-00002.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in shard.items()} == {
        "mean": (6, 8, 4, 8, 8),
        "std": (6, 8, 4, 8, 8),
        "text": (6, 2, 77, 48),
        "pooled": (6, 2, 24),
        "mask": (6, 32, 32),
    }
    empty = load_file(LATENTS / EMPTY_CAPTION)
    assert set(empty) == {"text", "pooled"} and not empty["pooled"].any()
    base = load_base()
    draws = Draws(seed=0, batch_size=4, caption_dropout=0.5, augment=False, crop=4)
    whole = TrainingBatches(LatentSource(), draws, (4, 8, 8), 1000)
    halves = [TrainingBatches(LatentSource(), draws, (4, 8, 8), 1000, rank, 2) for rank in (0, 1)]
    seen = set()
    for step in range(20):
        batch, parts = whole[step], [half[step] for half in halves]
        for name, tensor in batch.items():
            assert torch.equal(tensor, torch.cat([part[name] for part in parts])), name
        # The model is told which window of the image it sees, in pixels.
        added = base.added_conditions(batch)
        assert added is not None and torch.equal(added["text_embeds"], batch["pooled"])
        for ids in added["time_ids"].int().tolist():
            assert (ids[:2], ids[4:]) == ([32, 32], [16, 16])
            seen.add((ids[2], ids[3]))
        dropped = ~batch["text"].flatten(1).any(1)
        assert torch.equal(dropped, ~batch["pooled"].any(1))
    assert len(seen) > 15 and {number for corner in seen for number in corner} == {0, 4, 8, 12, 16}


def test_the_window_is_where_the_mask_was_cut(place: Path) -> None:
    source = LatentSource()
    masks = torch.cat([load_file(path)["mask"] for path in sorted(LATENTS.glob("train-*"))])
    draws = Draws(seed=0, batch_size=12, caption_dropout=0.0, augment=False, crop=4)
    batch = TrainingBatches(source, draws, (4, 8, 8), 1000)[0]
    for mask, (*_, top, left, height, width) in zip(
        batch["mask"], batch["window"].tolist(), strict=True
    ):
        windows = masks[:, top : top + height, left : left + width]
        assert any(torch.equal(mask, window) for window in windows)


@pytest.mark.slow
def test_losses_depend_on_no_cache_and_on_the_conditions(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = trained(place, augment=True)
    assert trained(place, augment=True, latent_cache=False) == pytest.approx(cached, rel=1e-4)
    assert trained(place, augment=True, gradient_checkpointing=True, gradient_accumulation=2) == (
        pytest.approx(cached, rel=1e-4)
    )
    blind = StableDiffusionXL.added_conditions

    def elsewhere(base: StableDiffusionXL, batch: dict[str, torch.Tensor]) -> Any:
        return blind(base, batch | {"window": batch["window"] + 100})

    monkeypatch.setattr(StableDiffusionXL, "added_conditions", elsewhere)
    assert trained(place, augment=True) != pytest.approx(cached, rel=1e-5)


@pytest.mark.slow
def test_stopped_it_ends_with_the_same_bytes(prepared: Path, tmp_path: Path) -> None:
    whole, stopped = (new_place(prepared, tmp_path / name) for name in ("whole", "stopped"))
    for folder in (whole, stopped):
        settle(folder, crop=16, unlock_decoder_steps=10)
    undisturbed = finish(whole)
    process = start(stopped)
    wait_for(lambda: any((stopped / "scratch").rglob("*.pt")), process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 3
    assert finish(stopped) == undisturbed
    curve = [float(row.split(",")[1]) for row in
             (whole / "metrics/controlnet.csv").read_text().split()[1:]]  # fmt: skip
    assert np.isfinite(curve).all()


def test_the_result_is_used_as_its_card_says(place: Path) -> None:
    for conditioning in ("one_hot", "colours"):
        params = settle(place, conditioning=conditioning, steps=4, crop=16)
        train_controlnet.main(params)
        assert ControlNetModel.load_config(CONTROLNET)["addition_embed_type"] == "text_time"
        mask = Image.fromarray(np.full((64, 64), 5, np.uint8))
        mask.putpalette(palette(params.classes))
        mask.save("mask.png")
        card = (CONTROLNET / "README.md").read_text()
        (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
        assert "StableDiffusionXLControlNetPipeline.from_pretrained" in code
        exec(code, {})
        with Image.open("photograph.png") as image:
            assert image.size == (32, 32)


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_it_is_adapted(lora_rank: int, place: Path) -> None:
    params = settle(place, adapt_base={"steps": 3, "lora_rank": lora_rank, "crop": 16})
    (place / ADAPTED_BASE).unlink()
    adapt_base.main(params)
    before, after = (load_base(folder) for folder in (BASE, ADAPTED_BASE))
    assert isinstance(after, StableDiffusionXL) and isinstance(before, StableDiffusionXL)
    ours, theirs = after.unet.state_dict(), before.unet.state_dict()
    assert ours.keys() == theirs.keys()
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)
    other = after.text_encoder_2.state_dict(), before.text_encoder_2.state_dict()
    assert all(torch.equal(other[0][name], other[1][name]) for name in other[0])
    assert "# Stable Diffusion XL adapted to" in (ADAPTED_BASE / "README.md").read_text()


def test_its_decoder_is_adapted(place: Path) -> None:
    autoencoder = {"steps": 3, "batch_size": 4, "crop": 16}
    params = settle(place, adapt_base={"autoencoder": autoencoder})
    (place / ADAPTED_BASE).unlink()
    adapt_base.main(params)
    before, after = (load_file(f / "vae/diffusion_pytorch_model.safetensors")
                     for f in (BASE, ADAPTED_BASE))  # fmt: skip
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"decoder", "post_quant_conv"}
    # diffusers loads it by the name of its own class.
    assert AutoencoderKL.load_config(ADAPTED_BASE / "vae")["_class_name"] == "AutoencoderKL"
    pipeline = StableDiffusionXLPipeline.from_pretrained(ADAPTED_BASE, add_watermarker=False)
    assert isinstance(pipeline.vae, AutoencoderKL)


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"guidance": 1.0},
    "guidance": {"guidance": 4.0},
    "negative prompt": {"guidance": 4.0, "negative_prompt": "water, snow."},
    "conditioning scale": {"guidance": 1.0, "conditioning_scale": 0.3},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_one_tile_is_painted_as_by_diffusers(name: str, steering: Params) -> None:
    """The same denoising as diffusers' pipeline for published ControlNets, from the same noise."""
    settings = SETTINGS[name]
    mask = np.full((32, 32), 5, np.uint8)
    pipeline = StableDiffusionXLControlNetPipeline.from_pretrained(
        BASE, controlnet=load_controlnet(), add_watermarker=False
    )
    pipeline.scheduler = DDIMScheduler.from_config(
        pipeline.scheduler.config, timestep_spacing="trailing"
    )
    (image,) = pipeline(
        "Aerial view.",
        image=conditioning_of(steering)(torch.from_numpy(mask)[None]),
        negative_prompt=settings.get("negative_prompt"),
        guidance_scale=settings["guidance"],
        controlnet_conditioning_scale=settings.get("conditioning_scale", 1.0),
        num_inference_steps=4,
        generator=seeded_generator(3, "paint"),
        output_type="np",
    ).images
    ours = Painter().paint(mask, "Aerial view.", 3, steps=4, **settings)
    assert np.abs(ours - image * 255).max() <= 1
    assert image.std() > 0.01


def test_large_masks_are_painted_whole(steering: Params) -> None:
    mask = np.full((96, 80), 5, np.uint8)
    image = Painter(batch_size=4).paint(mask, "Aerial view.", steps=3).astype(int)
    assert image.shape == (96, 80, 3)
    other = Painter(batch_size=1).paint(mask, "Aerial view.", steps=3)
    assert np.abs(image - other).max() <= 1  # whatever the batches of tiles


def test_the_base_of_another_family_is_refused(steering: Params) -> None:
    save_base(tiny_stable_diffusion(steering, CAPTIONS, 32), Path("models/other"))
    with pytest.raises(
        UserError, match=r"models/controlnet: was trained on another base model: its"
    ):
        Painter(base="models/other")


def test_the_command_generates(steering: Params, capsys: pytest.CaptureFixture[str]) -> None:
    write_mask(Path("mask.png"), np.full((40, 32), 5, np.uint8), steering.classes)
    command = ["generate", "mask.png", "--output", "a.png", "--steps", "2"]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--prompt", "water " * 200])
    assert ended.value.code == 0, capsys.readouterr().err
    assert "--prompt: only 77 tokens are used" in capsys.readouterr().err
    assert read_image(Path("a.png")).shape == (40, 32, 3)


@pytest.mark.slow
def test_validation_images(steering: Params, prepared: Path) -> None:
    Path("data").unlink()  # a link to what is prepared; the stage writes beside it
    Path("data").mkdir()
    for name in ("dataset", "composed"):
        Path("data", name).symlink_to(prepared / "data" / name)
    said = generate_validation.main(changed(steering, generate_validation={"batch_size": 3}))
    assert said == "images for 6 masks generated (4 validation, 2 test), 3 per mask"
    folder = Path("data/generated/validation")
    images = [read_image(folder / f"{kind}/IMG_000002.png") for kind in ("generated", "untrained")]
    assert images[0].tobytes() != images[1].tobytes()
    assert dvc_md5(CONTROLNET) in Path("data/generated/manifest.json").read_text()
