"""The models' parts: conditions, targets, the judge, and an untrained ControlNet that is silent."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from aerialdreams.data.images import images_to_tensor
from aerialdreams.errors import UserError
from aerialdreams.generation.batch import GenerationRequest, generate_batch
from aerialdreams.models.conditioning import condition_of
from aerialdreams.models.controlnet import new_controlnet
from aerialdreams.models.ign_segmenter import IgnSegmenter
from aerialdreams.models.segmenter import Segmenter, load_segmenter
from aerialdreams.models.stable_diffusion import StableDiffusion, load_stable_diffusion
from aerialdreams.models.tiny import new_text_encoder, new_tokenizer, new_unet, new_vae
from aerialdreams.params import Params
from aerialdreams.training.batches import draw_noise
from aerialdreams.training.losses import prediction_target
from aerialdreams.util.torch_setup import configure_torch

CAPTIONS = ["Aerial view of Été. water, building.", "Aerial view of Le Mas. deciduous."]


@pytest.fixture
def base(params: Params) -> StableDiffusion:
    """The tiny base model with random weights."""
    device = configure_torch(1)
    tokenizer = new_tokenizer(CAPTIONS, params.base_model.tiny.text)
    return StableDiffusion(
        vae=new_vae(params.base_model.tiny, 64),
        text_encoder=new_text_encoder(params.base_model.tiny, len(tokenizer)),
        tokenizer=tokenizer,
        unet=new_unet(params.base_model.tiny, 32),
        scheduler=DDPMScheduler(
            prediction_type=params.base_model.tiny.unet.prediction,
            clip_sample=False,
            steps_offset=1,
        ),
    ).to(device)


def test_conditions_are_the_mask(params: Params) -> None:
    mask = torch.tensor([[[1, 19], [7, 7]]], dtype=torch.uint8)
    colour = condition_of(mask, 3, params.classes)
    assert colour.shape == (1, 3, 2, 2)
    assert (colour[0, :, 0, 0] * 255).tolist() == pytest.approx([0xDB, 0x0E, 0x9A])
    assert colour[0, :, 0, 1].tolist() == [0, 0, 0]
    planes = condition_of(mask, 19, params.classes)
    assert planes.shape == (1, 19, 2, 2)
    assert (planes.argmax(1) + 1).tolist() == mask.tolist()
    assert planes.sum() == 4


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
    clean, noise = torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    if kind == "sample":
        with pytest.raises(UserError, match="prediction_type 'sample' is not known"):
            prediction_target(scheduler, clean, noise, torch.tensor([500]))
        return
    target = prediction_target(scheduler, clean, noise, torch.tensor([500]))
    root = float((1 - scheduler.alphas_cumprod[500]) ** 0.5)
    assert target.mean() == pytest.approx(0 if kind == "epsilon" else -root, abs=1e-6)


def test_a_tokenizer_of_our_own(base: StableDiffusion) -> None:
    tokens = base.tokenizer("Aerial view of Été.").input_ids
    assert base.tokenizer.decode(tokens, skip_special_tokens=True) == "aerial view of été ."
    assert base.tokenizer.model_max_length == 77


@pytest.mark.parametrize("condition", ["one_hot", "colours"])
def test_an_untrained_controlnet_changes_nothing(
    condition: str, base: StableDiffusion, params: Params
) -> None:
    """What evaluation calls `untrained`, the base model alone, is what a new ControlNet gives."""
    channels = params.train_controlnet.embedding_channels
    controlnet = new_controlnet(base.unet, channels, condition, 3).eval()
    settings = params.generate_validation.model_copy(update={"steps": 2})
    masks = np.full((2, 64, 64), 5, np.uint8)
    batch = [GenerationRequest(f"{n:06}", masks[n], CAPTIONS[n]) for n in (0, 1)]
    untrained = generate_batch(base, controlnet, batch, settings, params.classes)
    assert untrained.shape == (2, 64, 64, 3)
    assert np.array_equal(untrained, generate_batch(base, None, batch, settings, params.classes))
    # An image is its patch's own, wherever it stands in a batch; only rounding differs there.
    again = generate_batch(base, None, batch[::-1], settings, params.classes)
    assert np.abs(untrained[::-1].astype(int) - again).max() <= 1


def test_a_base_model_survives_its_folder(base: StableDiffusion, tmp_path: Path) -> None:
    for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler"):
        getattr(base, name).save_pretrained(tmp_path / name)
    again = load_stable_diffusion(tmp_path)
    assert again.tokenizer(CAPTIONS).input_ids == base.tokenizer(CAPTIONS).input_ids
    for name in ("vae", "text_encoder", "unet"):
        ours, theirs = getattr(base, name).state_dict(), getattr(again, name).state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no base model"):
        load_stable_diffusion(tmp_path)
    with pytest.raises(UserError, match="no segmenter"):
        load_segmenter(tmp_path)


def test_the_judge_survives_its_folder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    judge = Segmenter([8, 16, 24]).eval()
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
