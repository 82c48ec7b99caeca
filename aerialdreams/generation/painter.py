"""Images for masks of any size: overlapping tiles, blended at every denoising step."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aerialdreams.data.land_cover import IGNORED, class_ids
from aerialdreams.data.mask_values import allowed_values
from aerialdreams.errors import UserError
from aerialdreams.generation.tiling import Corner, blend_tiles
from aerialdreams.models.controlnet import load_controlnet, require_fit, with_finetuned_unet
from aerialdreams.models.families import encode_prompts, load_base
from aerialdreams.models.model_info import ModelInfo
from aerialdreams.models.sampling import SamplerName, Sampling, make_sampler
from aerialdreams.models.tensors import image_windows, images_to_tensor
from aerialdreams.paths import ADAPTED_BASE, CONTROLNET
from aerialdreams.util.progress import progress
from aerialdreams.util.seeding import seeded_generator
from aerialdreams.util.torch_setup import fastest_precision, inference_autocast

OnStep = Callable[[int, int], None]


class Kept(NamedTuple):
    """Parts of a photograph that a generated image continues.

    The image is close to the photograph there, not equal: encoding and decoding change it.

    Attributes:
        photograph: 0 to 255, (height, width, bands), of the mask's size.
        repainted: bool, (height, width); true where the image is new.
    """

    photograph: NDArray[np.uint8]
    repainted: NDArray[np.bool_]


class Painter:
    """A trained ControlNet with its base model, ready to generate images for masks.

        painter = Painter()
        image = painter.paint(mask, "Aerial view of Brest, Finistère. water, building.")

    Args:
        controlnet: folder of the ControlNet, as train-controlnet writes it.
        base: folder of the base model.
        batch_size: tiles that are computed at once.
        precision: fp32, fp16 or bf16; None is fp32 on a CPU, and bf16 or, on GPUs that lack it,
            fp16 on a GPU.

    Attributes:
        info: class table, image size, pixel size and default sampling settings of the model.

    Raises:
        UserError: a model is missing or damaged, or they do not fit each other.
    """

    def __init__(
        self,
        controlnet: Path | str = CONTROLNET,
        base: Path | str = ADAPTED_BASE,
        batch_size: int = 4,
        precision: str | None = None,
    ) -> None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.precision = precision or fastest_precision(device)
        self.info, self.batch_size = ModelInfo.load(Path(controlnet)), batch_size
        self.controlnet = load_controlnet(Path(controlnet)).to(device)
        base_model = load_base(Path(base)).to(device)
        require_fit(self.controlnet, base_model, Path(controlnet))
        self.base = with_finetuned_unet(base_model, Path(controlnet))

    @torch.no_grad()
    def paint(
        self,
        mask: NDArray[np.uint8],
        prompt: str,
        seed: int = 0,
        negative_prompt: str = "",
        sampler: SamplerName | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        conditioning_scale: float | None = None,
        kept: Kept | None = None,
        on_step: OnStep | None = None,
    ) -> NDArray[np.uint8]:
        """Generate the image of a mask, one pixel of the image per pixel of the mask.

        Masks larger than the model's images are covered with tiles that overlap by half. At every
        denoising step the predictions of overlapping tiles are averaged (MultiDiffusion, Bar-Tal et
        al. 2023, arXiv 2302.08113), with weights that fall off towards a tile's edge, so that there
        are no seams. Memory grows with the size of the mask, not with the number of tiles.

        Args:
            mask: class ids, (height, width), at `info.pixel_size` metres per pixel; IGNORED (255)
                where a pixel has no class.
            prompt: what the image shows, in the form of the training captions.
            seed: of the initial noise.
            negative_prompt: what to steer away from; needs guidance above 1.
            sampler: ddim, dpm++ or unipc. None, here and below: as the model was meant to be
                sampled (`info.sampling`).
            steps: denoising steps.
            guidance: classifier-free guidance scale; 1 turns it off.
            conditioning_scale: factor on the ControlNet's residuals.
            kept: parts of a photograph that the image is to continue; see `Kept`.
            on_step: called after each denoising step with the steps done and their number; what it
                raises ends the generation. None shows a progress bar.

        Returns:
            RGB and the model's further bands (`info.further`), (height, width, bands).

        Raises:
            UserError: the mask has ids outside the class table.
            ValueError: a sampling setting is out of range.
        """
        sampling = self.info.sampling.override(
            sampler=sampler, steps=steps, guidance=guidance, conditioning_scale=conditioning_scale
        )
        with inference_autocast(self.base.unet.device, self.precision):
            image = self._paint(
                self._pad(mask), prompt, seed, negative_prompt, sampling, kept, on_step
            )
        return image[: mask.shape[0], : mask.shape[1]]

    def _paint(
        self,
        padded: NDArray[np.uint8],
        prompt: str,
        seed: int,
        negative_prompt: str,
        sampling: Sampling,
        kept: Kept | None,
        on_step: OnStep | None,
    ) -> NDArray[np.uint8]:
        """See `paint`; the mask has the size of at least one tile, in whole latent pixels."""
        factor, device = self.base.vae_scale_factor, self.base.unet.device
        channels = self.base.unet.config["in_channels"]
        shape = (channels, padded.shape[0] // factor, padded.shape[1] // factor)
        scheduler = make_sampler(self.base, sampling.sampler)
        scheduler.set_timesteps(sampling.steps, device=device)
        noise = torch.randn(shape, generator=seeded_generator(seed, "paint")).to(device)
        latents = noise[None] * scheduler.init_noise_sigma
        prompts = [prompt, negative_prompt] if sampling.guidance > 1 else [prompt]
        texts = encode_prompts(self.base, prompts)
        known = self._encode(kept, padded, shape) if kept else None
        timesteps, count = scheduler.timesteps, len(scheduler.timesteps)
        bar = timesteps if on_step else progress(timesteps, "denoising", "steps", count)
        for number, timestep in enumerate(bar, start=1):
            model_input = scheduler.scale_model_input(latents, timestep)
            prediction = self._blend(
                lambda tiles, model_input=model_input, timestep=timestep: self._predict(  # type: ignore[misc]
                    model_input, padded, tiles, timestep, texts, sampling
                ),
                shape,
            )
            latents = scheduler.step(prediction[None], timestep, latents, return_dict=False)[0]
            if known:
                # As diffusers' inpainting does with a UNet that has no mask among its inputs: what
                # is kept has the noise of the next step.
                photograph, repainted = known
                if number < count:
                    next_step = timesteps[number : number + 1]
                    photograph = scheduler.add_noise(photograph, noise[None], next_step)
                latents = torch.where(repainted, latents, photograph)
            if on_step:
                on_step(number, count)
        latents = latents / self.base.vae.config["scaling_factor"]
        image = self._blend(lambda tiles: self._decode(latents, tiles), shape, factor)
        pixels = ((image / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu()
        return pixels.numpy()

    def _encode(
        self, kept: Kept, padded: NDArray[np.uint8], shape: tuple[int, ...]
    ) -> tuple[Tensor, Tensor]:
        """The latents of a photograph, and where they are repainted: (1, 1, height, width)."""
        factor, size = self.base.vae_scale_factor, self._tile_size
        missing = [
            (0, whole - side)
            for whole, side in zip(padded.shape, kept.repainted.shape, strict=True)
        ]
        pixels = images_to_tensor(np.pad(kept.photograph, [*missing, (0, 0)], mode="edge")[None])

        def encode(tiles: list[Corner]) -> Tensor:
            parts = [
                pixels[:, :, y * factor : (y + size) * factor, x * factor : (x + size) * factor]
                for y, x in tiles
            ]
            images = torch.cat(parts).to(self.base.vae.device)
            latents: Tensor = self.base.vae.encode(images).latent_dist.mean
            return latents * self.base.vae.config["scaling_factor"]

        photograph = self._blend(encode, shape)[None]
        repainted = torch.from_numpy(np.pad(kept.repainted, missing, mode="edge"))[None, None]
        touched = torch.nn.functional.max_pool2d(repainted.float(), factor) > 0
        return photograph, touched.to(photograph.device)

    def _pad(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The mask, extended by its edge to at least one tile and to whole latent pixels."""
        classes = self.info.conditioning.classes
        if mask.ndim != 2 or not np.isin(mask, [*class_ids(classes), IGNORED]).all():
            raise UserError(
                f"the mask has shape {mask.shape} and ids {mask.min()} to {mask.max()}; it must be"
                f" (height, width) with ids {allowed_values(classes)}, or {IGNORED} for no class"
            )
        factor = self.base.vae_scale_factor
        sizes = [max(self.info.image_size, -(-side // factor) * factor) for side in mask.shape]
        missing = [(0, size - side) for size, side in zip(sizes, mask.shape, strict=True)]
        return np.pad(mask, missing, mode="edge")

    @property
    def _tile_size(self) -> int:
        """Height and width of a tile, in latent pixels."""
        return self.info.image_size // self.base.vae_scale_factor

    def _blend(
        self, compute: Callable[[list[Corner]], Tensor], shape: tuple[int, ...], scale: int = 1
    ) -> Tensor:
        """`blend_tiles` with this model's tiles."""
        device = self.base.unet.device
        return blend_tiles(compute, shape, self._tile_size, self.batch_size, device, scale)

    def _predict(
        self,
        latents: Tensor,
        mask: NDArray[np.uint8],
        tiles: list[Corner],
        timestep: Tensor,
        texts: dict[str, Tensor],
        sampling: Sampling,
    ) -> Tensor:
        """The UNet's prediction for some tiles, with guidance, (tiles, channels, size, size)."""
        size, factor = self._tile_size, self.base.vae_scale_factor
        noisy = torch.cat([latents[:, :, y : y + size, x : x + size] for y, x in tiles])
        areas = [
            (slice(y * factor, (y + size) * factor), slice(x * factor, (x + size) * factor))
            for y, x in tiles
        ]
        masks = torch.from_numpy(np.stack([mask[area] for area in areas]))
        conditioning = self.info.conditioning(masks.to(noisy.device))
        side = self.info.image_size
        window = image_windows(side, [(0, 0)] * len(tiles), side).to(noisy.device)
        predictions = []
        for number in range(len(texts["text"])):
            batch = {name: rows[[number] * len(tiles)] for name, rows in texts.items()}
            captions, added = batch["text"], self.base.added_conditions(batch | {"window": window})
            down, mid = self.controlnet(
                noisy,
                timestep,
                captions,
                conditioning,
                conditioning_scale=sampling.conditioning_scale,
                added_cond_kwargs=added,
                return_dict=False,
            )
            predictions.append(
                self.base.unet(
                    noisy,
                    timestep,
                    captions,
                    added_cond_kwargs=added,
                    down_block_additional_residuals=down,
                    mid_block_additional_residual=mid,
                    return_dict=False,
                )[0]
            )
        prediction: Tensor = predictions[0]
        if len(predictions) > 1:
            negative = predictions[1]
            prediction = negative + sampling.guidance * (prediction - negative)
        return prediction

    def _decode(self, latents: Tensor, tiles: list[Corner]) -> Tensor:
        """The decoded images of some tiles, (tiles, bands, image_size, image_size), -1..1."""
        size = self._tile_size
        parts = torch.cat([latents[:, :, y : y + size, x : x + size] for y, x in tiles])
        decoded: Tensor = self.base.vae.decode(parts, return_dict=False)[0]
        return decoded
