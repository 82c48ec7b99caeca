"""An autoencoder for more bands: colours as before, and further bands that it learns."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from aerialdreams.models.latent_diffusion import UpcastAutoencoder, load_vae, save_vae
from aerialdreams.models.widening import widen
from aerialdreams.training.autoencoder import AdaptedAutoencoder
from aerialdreams.util.seeding import seeded_generator


def small_vae(kind: type[AutoencoderKL] = AutoencoderKL) -> AutoencoderKL:
    """An autoencoder of Stable Diffusion's shape with random weights."""
    torch.manual_seed(0)
    vae: AutoencoderKL = kind(
        block_out_channels=(16, 16),
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=4,
        norm_num_groups=4,
        force_upcast=True,
    )
    return vae.requires_grad_(False).eval()


def scenes(count: int) -> Tensor:
    """Images of five bands, -1..1, (count, 5, 16, 16): stripes, and two bands that follow them."""
    generator = seeded_generator(0, "scenes", count)
    shades = 2 * torch.rand(count, 3, 4, 4, generator=generator) - 1
    colours = shades.repeat_interleave(4, 2).repeat_interleave(4, 3)
    red, green, _ = colours.unbind(1)
    return torch.cat([colours, torch.stack([-red, 0.5 * red - 0.5 * green], 1)], 1)


@torch.no_grad()
def test_colours_are_as_before() -> None:
    vae, images = small_vae(), scenes(2)
    wide = widen(vae, 5)
    assert (wide.config["in_channels"], wide.config["out_channels"]) == (5, 5)
    colours = images[:, :3]
    before, after = vae.encode(colours).latent_dist, wide.encode(images).latent_dist
    assert torch.allclose(before.mean, after.mean, atol=1e-6)
    assert torch.allclose(before.std, after.std, atol=1e-6)
    decoded, widely = vae.decode(before.mean).sample, wide.decode(before.mean).sample
    assert torch.allclose(decoded, widely[:, :3], atol=1e-6)
    for band in (3, 4):
        assert torch.allclose(widely[:, band], decoded.mean(1), atol=1e-6)


def test_the_given_one_stays_as_it_is() -> None:
    vae = small_vae()
    before = {name: weight.clone() for name, weight in vae.state_dict().items()}
    state = torch.get_rng_state()
    wide = widen(vae, 4)
    assert torch.equal(torch.get_rng_state(), state)
    for weight in wide.parameters():
        weight.add_(1)
    assert vae.config["in_channels"] == 3
    assert all(torch.equal(before[name], weight) for name, weight in vae.state_dict().items())
    with pytest.raises(ValueError, match="has 3 bands; 3 are not more"):
        widen(vae, 3)


@pytest.mark.parametrize("kind", [AutoencoderKL, UpcastAutoencoder])
def test_diffusers_loads_it_as_it_is(kind: type[AutoencoderKL], tmp_path: Path) -> None:
    wide = widen(small_vae(kind), 4)
    assert isinstance(wide, kind)
    save_vae(wide, tmp_path)
    for loaded in (AutoencoderKL.from_pretrained(tmp_path / "vae"), load_vae(tmp_path)):
        ours, theirs = wide.state_dict(), loaded.state_dict()
        assert loaded.config["in_channels"] == loaded.config["out_channels"] == 4
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert AutoencoderKL.load_config(tmp_path / "vae")["_class_name"] == "AutoencoderKL"


def test_further_bands_are_learnt() -> None:
    images, zero = scenes(8), torch.zeros(8, 4, 8, 8)
    model = AdaptedAutoencoder(widen(small_vae(), 5), first_layer=True)
    optimizer = torch.optim.AdamW(model.weights, lr=0.003)
    for _ in range(150):
        loss = (model(images, zero, zero) - images).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        errors = (model(images, zero, zero) - images).abs().mean((0, 2, 3))
    means = (images - images.mean((0, 2, 3), keepdim=True)).abs().mean((0, 2, 3))
    assert (errors[3:] < 0.6 * means[3:]).all(), errors / means
    first = model.vae.state_dict()["encoder.conv_in.weight"]
    assert first[:, 3:].abs().max() > 0.001
