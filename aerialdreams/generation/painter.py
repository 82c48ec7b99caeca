"""Photographs for masks of any size: tiles of the trained size, blended at every denoising step."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aerialdreams.data.dataset import batched
from aerialdreams.errors import UserError
from aerialdreams.models.conditioning import condition_of
from aerialdreams.models.controlnet import load_controlnet, with_finetuned_unet
from aerialdreams.models.model_info import read_about
from aerialdreams.models.stable_diffusion import encode_prompts, load_stable_diffusion, make_sampler
from aerialdreams.paths import BASE, CONTROLNET
from aerialdreams.util.progress import progress
from aerialdreams.util.seeding import seeded_generator

Make = Callable[[list[tuple[int, int]]], Tensor]  # pictures or predictions of some tiles


class Painter:
    """A trained ControlNet and its base model, ready to paint masks.

        painter = Painter()
        photograph = painter.paint(mask, "Aerial view of Brest, Finistère. water, building.")

    Args:
        controlnet: its folder, as train-controlnet writes it.
        base: the base model's folder.
        batch: tiles at a time.

    Raises:
        UserError: a model is missing or damaged.
    """

    def __init__(
        self, controlnet: Path | str = CONTROLNET, base: Path | str = BASE, batch: int = 4
    ) -> None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.about, self.batch = read_about(Path(controlnet)), batch
        self.controlnet = load_controlnet(Path(controlnet)).to(device)
        self.base = with_finetuned_unet(
            load_stable_diffusion(Path(base)).to(device), Path(controlnet)
        )
        self.factor = int(2 ** (len(self.base.vae.config["block_out_channels"]) - 1))

    @torch.no_grad()
    def paint(
        self,
        mask: NDArray[np.uint8],
        prompt: str,
        seed: int = 0,
        steps: int = 20,
        guidance: float = 1.0,
        conditioning_scale: float = 1.0,
        negative_prompt: str = "",
        scheduler: str = "ddim",
    ) -> NDArray[np.uint8]:
        """A photograph of what a mask says, pixel for pixel.

        Masks larger than the model's images are painted in tiles that overlap by half. What the
        model predicts is averaged where tiles meet, at every step (MultiDiffusion, Bar-Tal et al.
        2023, arXiv 2302.08113), with weights that fade towards a tile's edge, so that none is seen.
        Memory grows by the mask's own size, not by the number of tiles.

        Args:
            mask: class ids, (height, width), at `about.pixel` metres a pixel.
            prompt: what it shows, as the captions that it was trained with.
            seed: of the noise that it begins with.
            steps: of denoising.
            guidance: 1 draws by the prompt alone; above, more of what it asks for.
            conditioning_scale: of the ControlNet's outputs.
            negative_prompt: what is not wanted; with guidance above 1.
            scheduler: ddim, dpm++ or unipc.

        Returns:
            RGB, (height, width, 3).

        Raises:
            UserError: the mask has ids that are no class.
        """
        height, width = mask.shape
        padded = self._pad(mask)
        shape = (self.base.unet.config["in_channels"], *(s // self.factor for s in padded.shape))
        device = self.base.unet.device
        steps_of = make_sampler(self.base, scheduler)
        steps_of.set_timesteps(steps, device=device)
        codes = torch.randn(shape, generator=seeded_generator(seed, "paint")).to(device)
        codes = codes[None] * steps_of.init_noise_sigma
        texts = encode_prompts(self.base, [prompt, negative_prompt] if guidance > 1 else [prompt])
        for time in progress(steps_of.timesteps, "painting", "steps", len(steps_of.timesteps)):
            scaled = steps_of.scale_model_input(codes, time)
            predicted = self._blend(
                lambda tiles, scaled=scaled, time=time: self._predict(  # type: ignore[misc]
                    scaled, padded, tiles, time, texts, guidance, conditioning_scale
                ),
                shape,
            )
            codes = steps_of.step(predicted[None], time, codes, return_dict=False)[0]
        codes = codes / self.base.vae.config["scaling_factor"]
        image = self._blend(lambda tiles: self._decode(codes, tiles), shape, self.factor)
        pixels = ((image / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu()
        return pixels.numpy()[:height, :width]

    def _pad(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The mask, its edge repeated to a tile at least and to whole pixels of the code."""
        if mask.ndim != 2 or not 1 <= mask.min() <= mask.max() <= len(self.about.classes):
            raise UserError(
                f"the mask has shape {mask.shape} and ids {mask.min()} to {mask.max()}; it must be"
                f" (height, width), with ids 1 to {len(self.about.classes)}"
            )
        sizes = [
            max(self.about.image_size, -(-side // self.factor) * self.factor) for side in mask.shape
        ]
        missing = [(0, size - side) for size, side in zip(sizes, mask.shape, strict=True)]
        return np.pad(mask, missing, mode="edge")

    def _tiles(self, height: int, width: int) -> list[tuple[int, int]]:
        """North-west corners of the tiles in the code, from north to south."""
        side = self.about.image_size // self.factor
        rows, columns = (
            [*range(0, length - side, side // 2), length - side] for length in (height, width)
        )
        return [(y, x) for y in rows for x in columns]

    def _blend(self, make: Make, shape: tuple[int, ...], scale: int = 1) -> Tensor:
        """What `make` gives for the tiles of a code of some shape, averaged where they overlap.

        Tiles are summed one by one, in their order: their batches change nothing.
        """
        side = self.about.image_size // self.factor * scale
        ramp = (torch.arange(side) + 0.5) / side
        fade = torch.sin(torch.pi * ramp) ** 2
        weight = (fade[:, None] * fade[None]).to(self.base.unet.device) + 1e-3
        total: Tensor | None = None
        weights = torch.zeros(shape[1] * scale, shape[2] * scale, device=weight.device)
        for tiles in batched(self._tiles(*shape[1:]), self.batch):
            for (y, x), made in zip(tiles, make(tiles), strict=True):
                if total is None:
                    total = torch.zeros(len(made), *weights.shape, device=weight.device)
                area = (slice(y * scale, y * scale + side), slice(x * scale, x * scale + side))
                total[:, *area] += made * weight
                weights[area] += weight
        assert total is not None
        return total / weights

    def _predict(
        self,
        codes: Tensor,
        mask: NDArray[np.uint8],
        tiles: list[tuple[int, int]],
        time: Tensor,
        texts: Tensor,
        guidance: float,
        conditioning_scale: float,
    ) -> Tensor:
        """What the UNet predicts for some tiles, (tiles, channels, h, w)."""
        side, size = self.about.image_size // self.factor, self.about.image_size
        noisy = torch.cat([codes[:, :, y : y + side, x : x + side] for y, x in tiles])
        corners = [(y * self.factor, x * self.factor) for y, x in tiles]
        masks = np.stack([mask[y : y + size, x : x + size] for y, x in corners])
        planes = self.controlnet.config["conditioning_channels"]
        condition = condition_of(torch.from_numpy(masks), planes, self.about.classes)
        results = []
        for text in texts:
            captions = text.expand(len(tiles), *text.shape)
            down, middle = self.controlnet(
                noisy,
                time,
                captions,
                condition.to(noisy.device),
                conditioning_scale=conditioning_scale,
                return_dict=False,
            )
            results.append(
                self.base.unet(
                    noisy,
                    time,
                    captions,
                    down_block_additional_residuals=down,
                    mid_block_additional_residual=middle,
                    return_dict=False,
                )[0]
            )
        wanted: Tensor = results[0]
        if len(results) > 1:
            wanted = results[1] + guidance * (wanted - results[1])
        return wanted

    def _decode(self, codes: Tensor, tiles: list[tuple[int, int]]) -> Tensor:
        """The pictures of some tiles, (tiles, 3, size, size), -1..1."""
        side = self.about.image_size // self.factor
        cut = torch.cat([codes[:, :, y : y + side, x : x + side] for y, x in tiles])
        decoded: Tensor = self.base.vae.decode(cut, return_dict=False)[0]
        return decoded
