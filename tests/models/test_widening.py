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
    """An autoencoder of Stable Diffusion's kind with random weights."""
    torch.manual_seed(0)
    vae: AutoencoderKL = kind(
        block_out_channels=(16,),
        down_block_types=["DownEncoderBlock2D"],
        up_block_types=["UpDecoderBlock2D"],
        latent_channels=8,
        norm_num_groups=4,
        force_upcast=True,
    )
    return vae.requires_grad_(False).eval()


def scenes(number: int, count: int = 8) -> Tensor:
    """Images of squares, -1..1, (count, 4, 16, 16): three colours, and the opposite of red."""
    generator = seeded_generator(0, "scenes", number)
    shades = 2 * torch.rand(count, 3, 4, 4, generator=generator) - 1
    colours = shades.repeat_interleave(4, 2).repeat_interleave(4, 3)
    return torch.cat([colours, -colours[:, :1]], 1)


@torch.no_grad()
def test_colours_are_as_before() -> None:
    vae, images = small_vae(), scenes(0)
    colours, images = images[:, :3], torch.cat([images, images[:, :1]], 1)
    wide = widen(vae, 5)
    assert (wide.config["in_channels"], wide.config["out_channels"]) == (5, 5)
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


def test_a_further_band_is_learnt() -> None:
    unseen, zero = scenes(-1, 32), torch.zeros(1, 8, 16, 16)
    model = AdaptedAutoencoder(widen(small_vae(), 4), first_layer=True)
    optimizer = torch.optim.AdamW(model.weights, lr=0.005)
    for step in range(120):
        images = scenes(step)
        loss = (model(images, zero, zero) - images).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        error = (model(unseen, zero, zero) - unseen)[:, 3].abs().mean()
    assert error < 0.5 * (unseen[:, 3] - unseen[:, 3].mean()).abs().mean()
    assert model.vae.state_dict()["encoder.conv_in.weight"][:, 3].abs().max() > 0.001
