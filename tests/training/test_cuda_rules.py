"""What a GPU would refuse, found without one: operations, and tensors left on the CPU."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from aerialdreams.models.segmenter import Segmenter
from aerialdreams.models.stable_diffusion import StableDiffusion
from aerialdreams.params import Params
from aerialdreams.training.autoencoder import AdaptedAutoencoder, reconstruction_loss
from aerialdreams.training.batches import draw_noise, draw_vae_noise
from aerialdreams.training.controlnet import per_sample_loss
from aerialdreams.training.loss_curves import TimestepBins
from aerialdreams.training.losses import (
    diffusion_loss,
    prediction_target,
    segmentation_loss,
)
from tests.tiny import conditioning_of, new_model, tiny_sdxl, tiny_stable_diffusion

# Operations for which torch has no deterministic implementation on CUDA, by the documentation of
# torch.use_deterministic_algorithms: under strict determinism they raise. Backward operations are
# listed where only differentiation raises.
REFUSED = {
    "avg_pool3d_backward",
    "_adaptive_avg_pool2d_backward",
    "_adaptive_avg_pool3d_backward",
    "adaptive_max_pool2d_backward",
    "fractional_max_pool2d_backward",
    "upsample_linear1d_backward",
    "upsample_bilinear2d_backward",
    "upsample_bicubic2d_backward",
    "upsample_trilinear3d_backward",
    "reflection_pad1d_backward",
    "reflection_pad2d_backward",
    "_ctc_loss_backward",
    "put_",
    "histc",
    "median",
    "kthvalue",
    "grid_sampler_2d_backward",
    "cumsum",
}
# These raise unless their `reduction` argument is 0 (none), where they sum nothing.
REFUSED_WITH_REDUCTION = {"nll_loss_forward", "nll_loss2d_forward"}


class Refusals(TorchDispatchMode):
    """Collects the operations that strict determinism would refuse on CUDA."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.refused: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        self.seen.add(name)
        if name in REFUSED or (name in REFUSED_WITH_REDUCTION and args[3] != 0):
            self.refused.add(name)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def small(params: Params) -> Params:
    """The project's params with images of 32 pixels."""
    values = params.model_dump()
    values["image_size"] = 32
    values["base_model"]["tiny"]["unet"]["crop"] = values["train_controlnet"]["crop"] = 0
    return Params.model_validate(values)


def segmenter_step(params: Params, device: str) -> torch.Tensor:
    """A segmenter's loss."""
    model = Segmenter([8, 16], 19).to(device)
    targets = torch.randint(0, 19, (2, 32, 32), dtype=torch.uint8).to(device)
    weights = torch.ones(19, device=device)
    return segmentation_loss(model(torch.rand(2, 3, 32, 32).to(device)), targets, weights)


def unet_step(params: Params, device: str) -> torch.Tensor:
    """The tiny UNet's loss, with its text encoder's."""
    base = tiny_stable_diffusion(params, ["Aerial view."], 32)
    base.unet.to(device)
    base.text_encoder.to(device)
    shape = (2, *base.latent_shape(32))
    noise, timesteps = draw_noise(0, 0, shape, base.num_train_timesteps)
    latents = draw_vae_noise(0, 0, shape)
    target = prediction_target(base.scheduler, latents, noise, timesteps).to(device)
    noisy = base.scheduler.add_noise(latents, noise, timesteps).to(device)
    tokens = torch.ones(2, 77, dtype=torch.int64)
    text = base.text_encoder(tokens.to(device)).last_hidden_state
    return diffusion_loss(base.unet(noisy, timesteps.to(device), text).sample, target).mean()


def controlnet_batch(base: StableDiffusion, cached: bool) -> dict[str, torch.Tensor]:
    """A batch as a data loader gives it, on the CPU."""
    shape = (2, *base.latent_shape(32))
    noise, timesteps = draw_noise(0, 0, shape, base.num_train_timesteps)
    batch = {
        "mask": torch.randint(1, 20, (2, 32, 32), dtype=torch.uint8),
        "noise": noise,
        "timesteps": timesteps,
        "vae_noise": draw_vae_noise(0, 0, shape),
    }
    if cached:
        width = base.text_encoder.config.hidden_size
        text = torch.zeros(2, 77, width)
        return batch | {"mean": torch.zeros(shape), "std": torch.ones(shape), "text": text}
    image = torch.from_numpy(np.zeros((2, 32, 32, 3), np.uint8))
    return batch | {"image": image, "tokens": torch.ones(2, 1, 77, dtype=torch.int64)}


def controlnet_step(params: Params, device: str, cached: bool = True) -> torch.Tensor:
    """The ControlNet's loss, from cached latents or from images."""
    base = tiny_stable_diffusion(params, ["Aerial view."], 32)
    model = new_model(params, base).to(device)
    base.to(torch.device(device))
    model.set_trainable(decoder=True)
    batch = controlnet_batch(base, cached)
    losses = per_sample_loss(model, base, conditioning_of(params), batch)
    TimestepBins(1000, torch.device(device)).add(batch["timesteps"], losses)
    return losses.mean()


def autoencoder_step(params: Params, device: str) -> torch.Tensor:
    """The loss of an autoencoder of Stable Diffusion's kind, its first layer trained, too."""
    base = tiny_sdxl(params, ["Aerial view."]).to(torch.device(device))
    model = AdaptedAutoencoder(base.vae, first_layer=True)
    shape = (2, *base.latent_shape(32))
    noise, timesteps = draw_noise(0, 0, shape, base.num_train_timesteps)
    image = torch.zeros((2, 32, 32, 3), dtype=torch.uint8)
    batch = {"image": image, "noise": noise, "timesteps": timesteps, "vae_noise": noise}
    return reconstruction_loss(model, base, batch, largest_noise=0.5).mean()


STEPS: dict[str, Callable[..., torch.Tensor]] = {
    "autoencoder": autoencoder_step,
    "segmenter": segmenter_step,
    "unet": unet_step,
    "controlnet": controlnet_step,
}


@pytest.mark.parametrize("name", sorted(STEPS))
def test_strict_determinism_on_cuda_refuses_nothing(name: str, small: Params) -> None:
    with Refusals() as refusals:
        STEPS[name](small, "cpu").backward()
    assert refusals.refused == set()
    assert {"convolution", "convolution_backward"} <= refusals.seen  # it does look


def test_the_usual_mean_of_cross_entropy_would_be_refused() -> None:
    logits = torch.rand(2, 19, 8, 8, requires_grad=True)
    targets = torch.randint(0, 19, (2, 8, 8))
    weights = torch.rand(19)
    with Refusals() as refusals:
        usual = torch.nn.functional.cross_entropy(logits, targets, weights)
    assert refusals.refused == {"nll_loss2d_forward"}
    ours = segmentation_loss(logits, targets.to(torch.uint8), weights)
    assert ours.item() == pytest.approx(usual.item(), rel=1e-6)


@pytest.mark.parametrize("cached", [True, False])
def test_no_tensor_of_a_step_stays_on_the_cpu(cached: bool, small: Params) -> None:
    """On torch's meta device nothing is computed, and tensors of two devices do not mix."""
    loss = controlnet_step(small, "meta", cached)
    assert loss.device.type == "meta"
    loss.backward()
    for name in ("segmenter", "unet"):
        STEPS[name](small, "meta").backward()
