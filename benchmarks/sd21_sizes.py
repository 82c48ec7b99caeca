"""A project folder with networks of Stable Diffusion 2.1-base's sizes and random weights.

Speed and memory of a training depend on sizes, not on weights, so they can be measured without
downloading a model.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import torch
import yaml
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from aerialdreams.paths import ADAPTED_BASE, DATASET

SIZE = 512


def make_project(project: Path, batch: int, precision: str) -> None:
    """Write params.yaml, a base model, four batches of each split, and their latents.

    The current folder must have the default run's dataset and tokenizer.

    Args:
        project: an empty folder.
        batch: samples per step.
        precision: fp32, fp16 or bf16, of the training and of the latents.
    """
    root = Path.cwd()
    (project / DATASET / "data").mkdir(parents=True)
    (project / DATASET / "README.md").symlink_to(root / DATASET / "README.md")
    for split in ("train", "validation", "test"):
        shard = sorted((root / DATASET / "data").glob(f"{split}-*.parquet"))[0]
        rows = pq.read_table(shard).slice(0, 4 * batch)
        pq.write_table(rows, project / DATASET / "data" / shard.name)
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["image_size"] = SIZE
    params["encode_latents"] |= {
        "precision": precision,
        "batch_size": 8,
        "validation_patches": batch,
    }
    params["train_controlnet"] |= {
        "embedding_channels": [16, 32, 96, 256],
        "precision": precision,
        "batch_size": batch,
    }
    params["train_controlnet"]["sampling"]["steps"] = 2
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    save_base(
        project / ADAPTED_BASE, CLIPTokenizer.from_pretrained(root / ADAPTED_BASE / "tokenizer")
    )
    shutil.copy(
        root / ADAPTED_BASE / "source.json", project / ADAPTED_BASE
    )  # read by the model card
    encode = [sys.executable, "-m", "stages.encode_latents"]
    subprocess.run(encode, cwd=project, check=True, stdout=sys.stderr)


def save_base(folder: Path, tokenizer: CLIPTokenizer) -> None:
    """Save networks with the sizes in the config.json files of `stable-diffusion-2-1-base`."""
    torch.manual_seed(0)
    UNet2DConditionModel(
        sample_size=64,
        cross_attention_dim=1024,
        attention_head_dim=(5, 10, 20, 20),
        use_linear_projection=True,
    ).save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        sample_size=SIZE,
    ).save_pretrained(folder / "vae")
    text = CLIPTextConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=23,
        num_attention_heads=16,
        hidden_act="gelu",
        projection_dim=512,
    )
    CLIPTextModel(text).save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
    ).save_pretrained(folder / "scheduler")
