"""Conditioning, targets, the judge, and a ControlNet before training, which changes nothing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline

from aerialdreams.data.land_cover import LandCoverClass
from aerialdreams.errors import UserError
from aerialdreams.generation.batch import GenerationRequest, generate_batch, reconstruct
from aerialdreams.models.conditioning import MaskConditioning
from aerialdreams.models.controlnet import new_controlnet
from aerialdreams.models.families import encode_prompts, load_base
from aerialdreams.models.ign_segmenter import IgnSegmenter
from aerialdreams.models.linear_autoencoder import LinearAutoencoder
from aerialdreams.models.model_info import ModelInfo
from aerialdreams.models.segmenter import Segmenter, load_segmenter
from aerialdreams.models.stable_diffusion import StableDiffusion
from aerialdreams.models.tensors import images_to_tensor
from aerialdreams.params import Params
from aerialdreams.training.batches import draw_noise
from aerialdreams.training.linear_autoencoder import (
    AutoencoderSettings,
    block_statistics,
    fit_autoencoder,
    train_refinement,
)
from aerialdreams.training.losses import prediction_target
from aerialdreams.util.torch_setup import configure_torch
from tests.conftest import changed
from tests.tiny import (
    conditioning_of,
    info_of,
    new_model,
    sampling_of,
    save_base,
    tiny_stable_diffusion,
)

CAPTIONS = ["Aerial view of Été. water, building.", "Aerial view of Le Mas. deciduous."]


@pytest.fixture
def base(params: Params) -> StableDiffusion:
    """The tiny base model with random weights."""
    return tiny_stable_diffusion(params, CAPTIONS, 64).to(configure_torch(1))


def test_conditioning_is_the_mask(params: Params) -> None:
    mask = torch.tensor([[[1, 19], [7, 7]]], dtype=torch.uint8)
    classes = tuple(params.classes)
    colours = MaskConditioning("colours", classes)(mask)
    assert colours.shape == (1, 3, 2, 2)
    assert (colours[0, :, 0, 0] * 255).tolist() == pytest.approx([0xDB, 0x0E, 0x9A])
    assert colours[0, :, 0, 1].tolist() == [0, 0, 0]
    one_hot = MaskConditioning("one_hot", classes)
    planes = one_hot(mask)
    assert planes.shape == (1, one_hot.channels, 2, 2) == (1, 19, 2, 2)
    assert (planes.argmax(1) + 1).tolist() == mask.tolist()
    assert planes.sum() == 4


def test_a_class_table_of_three_is_one_hot_or_colours_as_it_says() -> None:
    """Three channels may be either: nothing is guessed from their number."""
    names = {"a": "#ff0000", "b": "#00ff00", "c": "#0000ff"}
    classes = tuple(LandCoverClass(name=name, colour=colour) for name, colour in names.items())
    mask = torch.tensor([[[1, 2], [3, 3]]], dtype=torch.uint8)
    for encoding in ("one_hot", "colours"):
        conditioning = MaskConditioning(encoding, classes)
        assert conditioning.channels == 3
        assert MaskConditioning.from_dict(conditioning.to_dict()) == conditioning
    yellow = (classes[0], classes[1].model_copy(update={"colour": "#ffff00"}), classes[2])
    assert MaskConditioning("one_hot", yellow)(mask)[0, :, 0, 1].tolist() == [0, 1, 0]
    assert MaskConditioning("colours", yellow)(mask)[0, :, 0, 1].tolist() == [1, 1, 0]
    with pytest.raises(ValueError, match="unknown mask encoding 'depth'"):
        MaskConditioning.from_dict({"encoding": "depth", "classes": []})


def test_a_models_info_survives_its_folder(params: Params, tmp_path: Path) -> None:
    info = info_of(params)
    info.save(tmp_path)
    assert ModelInfo.load(tmp_path) == info
    path = tmp_path / "aerialdreams.json"
    path.write_text(path.read_text().replace('"ddim"', '"euler"'))
    with pytest.raises(UserError, match=r"aerialdreams\.json: cannot be read .*'euler' is not one"):
        ModelInfo.load(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=r"aerialdreams\.json: not found"):
        ModelInfo.load(tmp_path)


def test_pixels_as_numbers() -> None:
    tensor = images_to_tensor(np.array([[[[0, 127, 255]]]], np.uint8))
    assert tensor.shape == (1, 3, 1, 1)
    assert tensor.flatten().tolist() == pytest.approx([-1, -0.00392, 1], abs=1e-4)


def test_noise_is_a_function_of_seed_step_and_place() -> None:
    noise, times = draw_noise(1, 2, (4, 3, 2, 2), 1000)
    again, _ = draw_noise(1, 2, (2, 3, 2, 2), 1000)
    assert torch.equal(noise[:2], again)
    rest, late = draw_noise(1, 2, (2, 3, 2, 2), 1000, first=2)
    assert torch.equal(noise[2:], rest) and torch.equal(times[2:], late)
    assert not torch.equal(noise[0], noise[1])
    assert times.min() >= 0 and times.max() < 1000


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_target_follows_the_scheduler(kind: str) -> None:
    scheduler = DDPMScheduler(prediction_type=kind)
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 1, 1, 2, 2, generator=generator)
    if kind == "sample":
        with pytest.raises(UserError, match="prediction_type 'sample' is not supported"):
            prediction_target(scheduler, clean, noise, torch.tensor([500]))
        return
    target = prediction_target(scheduler, clean, noise, torch.tensor([500]))
    alpha = scheduler.alphas_cumprod[500]
    velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean  # Salimans and Ho 2022
    assert torch.allclose(target, noise if kind == "epsilon" else velocity, atol=1e-6)


def test_a_tokenizer_of_our_own(base: StableDiffusion) -> None:
    tokens = base.tokenizer("Aerial view of Été.").input_ids
    assert base.tokenizer.decode(tokens, skip_special_tokens=True) == "aerial view of été ."
    assert base.tokenizer.model_max_length == 77


@pytest.mark.parametrize("encoding", ["one_hot", "colours"])
def test_an_untrained_controlnet_changes_nothing(
    encoding: str, base: StableDiffusion, params: Params
) -> None:
    """The untrained images of an evaluation, made by the base alone, are those of a new model."""
    params = changed(params, train_controlnet={"conditioning": encoding})
    controlnet, conditioning = new_model(params, base).controlnet.eval(), conditioning_of(params)
    sampling = sampling_of(params, steps=2)
    masks = np.full((2, 64, 64), 5, np.uint8)
    batch = [GenerationRequest(f"{n:06}", masks[n], CAPTIONS[n]) for n in (0, 1)]
    untrained = generate_batch(base, controlnet, conditioning, batch, sampling, 4)
    assert untrained.shape == (2, 64, 64, 3)
    plain = generate_batch(base, None, conditioning, batch, sampling, 4)
    assert np.array_equal(untrained, plain)
    # The image does not depend on its position in the batch, except for rounding.
    again = generate_batch(base, None, conditioning, batch[::-1], sampling, 4)
    assert np.abs(untrained[::-1].astype(int) - again).max() <= 1


def test_a_base_model_survives_its_folder(base: StableDiffusion, tmp_path: Path) -> None:
    for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler"):
        getattr(base, name).save_pretrained(tmp_path / name)
    again = load_base(tmp_path)
    assert again.tokenizer(CAPTIONS).input_ids == base.tokenizer(CAPTIONS).input_ids
    for name in ("vae", "text_encoder", "unet"):
        ours, theirs = getattr(base, name).state_dict(), getattr(again, name).state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_the_linear_autoencoder_is_the_best_linear_one() -> None:
    """With all components nothing is lost; with some, what is lost is the rest of the variance."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (6, 8, 8, 3), np.uint8).repeat(4, 1).repeat(4, 2)
    images = coarse // 2 + generator.integers(0, 128, coarse.shape, np.uint8)
    pixels = images_to_tensor(images)
    settings = AutoencoderSettings(2, 12, 0.8, 1.5, 0, 0, 0)
    whole = fit_autoencoder(images, settings, 0)
    latents = whole.encode(pixels).latent_dist.mean
    assert latents.shape == (6, 12, 16, 16)
    assert latents.square().mean().item() == pytest.approx(1, abs=1e-4)
    assert torch.allclose(whole.decode(latents).sample, pixels, atol=1e-4)
    powers = latents.square().mean((0, 2, 3))
    assert (powers[:-1] >= powers[1:]).all()

    few = fit_autoencoder(images, replace(settings, channels=3), 0)
    error = few.decode(few.encode(pixels).latent_dist.mean).sample - pixels
    _, covariance = block_statistics(images, 2, torch.ones(3))
    lost = torch.linalg.eigvalsh(covariance)[:-3].sum() / 12
    assert error.square().mean().item() == pytest.approx(lost.item(), rel=1e-4)
    # Shuffled images have the same components, with the same signs.
    again = fit_autoencoder(images[::-1].copy(), settings, 0)
    assert torch.allclose(again.encoder.weight, whole.encoder.weight, atol=1e-5)


def test_a_single_colour_has_an_autoencoder() -> None:
    images = np.full((2, 32, 32, 3), 200, np.uint8)
    autoencoder = fit_autoencoder(images, AutoencoderSettings(4, 16, 1.0, 1.5, 0, 0, 0), 0)
    assert np.array_equal(reconstruct(autoencoder, images), images)


def test_diffusers_loads_the_tiny_base_by_itself(base: StableDiffusion, tmp_path: Path) -> None:
    save_base(base, tmp_path)
    theirs = StableDiffusionPipeline.from_pretrained(tmp_path, safety_checker=None)
    assert isinstance(theirs.vae, LinearAutoencoder)
    assert theirs.vae_scale_factor == base.vae_scale_factor
    latents = torch.randn(1, *base.latent_shape(64))
    ours = base.vae.decode(latents).sample
    assert torch.equal(theirs.vae.decode(latents).sample, ours)


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no base model"):
        load_base(tmp_path)
    with pytest.raises(UserError, match="no segmenter"):
        load_segmenter(tmp_path)


def test_the_judge_survives_its_folder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    judge = Segmenter([8, 16, 24], 19).eval()
    judge.save(tmp_path)
    images = torch.randn(2, 3, 32, 32)
    again = load_segmenter(tmp_path)
    assert torch.equal(judge(images), again(images))
    assert judge(images).shape == (2, 19, 32, 32)
    assert again.features(images).shape == (2, 24)


def test_igns_weights_fit_and_others_are_refused(tmp_path: Path) -> None:
    """Names and sizes are those of segmentation_models.pytorch's U-Net on a ResNet-34."""
    torch.manual_seed(0)
    net = IgnSegmenter()
    weights = net.state_dict()
    assert len(weights) == 278 and sum(p.numel() for p in net.parameters()) == 24_438_979
    assert weights["encoder.layer4.0.downsample.0.weight"].shape == (512, 256, 1, 1)
    assert weights["decoder.blocks.0.conv1.0.weight"].shape == (256, 768, 3, 3)
    assert weights["segmentation_head.0.bias"].shape == (19,)
    path = tmp_path / "ign.pth"
    torch.save({f"model.seg_model.{name}": weight for name, weight in weights.items()}, path)
    IgnSegmenter.from_checkpoint(path).save(tmp_path)
    judge, images = load_segmenter(tmp_path), torch.rand(2, 3, 64, 96) * 2 - 1
    assert torch.equal(judge(images), net.eval()(images))
    assert judge(images).shape == (2, 19, 64, 96) and judge.features(images).shape == (2, 512)
    torch.save({"other": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"ign\.pth: not the weights of IGN's segmenter"):
        IgnSegmenter.from_checkpoint(path)
    path.write_bytes(b"<html>")
    with pytest.raises(UserError, match=r"ign\.pth: not the weights of IGN's segmenter"):
        IgnSegmenter.from_checkpoint(path)


def test_a_refinement_removes_noise_of_latents() -> None:
    ramp, shifts = np.linspace(0, 255, 32).astype(np.uint8), range(0, 32, 2)
    rows = np.stack([np.roll(ramp, shift) for shift in shifts])
    images = np.broadcast_to(rows[:, :, None, None], (16, 32, 32, 3)).copy()
    images[::2] = images[::2].swapaxes(1, 2)
    settings = AutoencoderSettings(4, 16, 0.8, 1.5, 16, 60, 1.0)
    autoencoder = fit_autoencoder(images, settings, 0)
    clean = images_to_tensor(images)
    latents = autoencoder.encode(clean).latent_dist.mean
    noisy = latents + 0.4 * torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))

    def error() -> float:
        return float((autoencoder.decode(noisy).sample - clean).abs().mean())

    before = error()
    train_refinement(autoencoder, images, settings, seed=0)
    assert error() < 0.8 * before
    assert not any(weight.requires_grad for weight in autoencoder.parameters())


def test_initial_residuals_reach_the_unet(base: StableDiffusion, params: Params) -> None:
    conditioning = conditioning_of(params)
    channels = params.train_controlnet.embedding_channels
    masks = conditioning(torch.ones(1, 64, 64, dtype=torch.uint8))
    noise, text = torch.randn(1, *base.latent_shape(64)), encode_prompts(base, ["a"])["text"]

    def residual(scale: float) -> float:
        controlnet = new_controlnet(base.unet, conditioning, channels, 0, scale)
        with torch.no_grad():
            down, _ = controlnet(noise, torch.tensor([5]), text, masks, return_dict=False)
        return float(down[0].std())

    assert residual(0.0) == 0
    assert residual(0.6) == pytest.approx(2 * residual(0.3), rel=1e-4)
