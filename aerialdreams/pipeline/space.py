"""A Docker Space of the Hugging Face hub that serves the page with published models."""

import shutil
from pathlib import Path

from aerialdreams.errors import UserError
from aerialdreams.pipeline.model_names import HUB

PACKAGE = Path(__file__).parent.parent
PORT = 7860  # that Spaces expect
SPACE = Path("scratch/space")
README = """\
---
title: AerialDreams
emoji: 🛰️
colorFrom: green
colorTo: blue
sdk: docker
app_port: {port}
pinned: false
models: [{controlnet_id}, {base_id}]
---

Draw land cover, get an aerial photograph. All images are synthetic: they show no real place.

Made with AerialDreams. The models' cards name licences and credits: [{controlnet_id}](https://huggingface.co/{controlnet_id}),
[{base_id}](https://huggingface.co/{base_id}).

{credits}
"""
DOCKERFILE = """\
FROM python:3.11-slim
WORKDIR /app
COPY . .
RUN pip install --no-cache-dir --constraint constraints.txt .
ENV HF_HOME=/tmp/hub
EXPOSE {port}
CMD ["aerialdreams", "serve", "--host", "0.0.0.0", "--port", "{port}", "--no-token", \\
     "--controlnet", "{controlnet}", "--base", "{base}"]
"""


def write_space(
    folder: Path, project: Path, controlnet: str, base: str, credits: list[str]
) -> Path:
    """Write the files of a Space.

    Args:
        folder: replaced if it exists.
        project: with pyproject.toml and constraints.txt.
        controlnet: the model on the hub, OWNER/NAME or OWNER/NAME@REVISION.
        base: the base model, named likewise.
        credits: of the data that the model was trained on.

    Returns:
        The folder.

    Raises:
        UserError: a model is not named as on the hub, or the project's files are missing.
    """
    for key, name in (("--controlnet", controlnet), ("--base", base)):
        if not HUB.fullmatch(name) or Path(name).exists():
            raise UserError(f"{key}: {name}: a Space needs a model on the hub, OWNER/NAME@REVISION")
    shutil.rmtree(folder, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, folder / "aerialdreams", ignore=ignored)
    for name in ("pyproject.toml", "constraints.txt", "LICENSE"):
        if not (project / name).is_file():
            raise UserError(f"{project / name}: not found; run from the project's root")
        shutil.copyfile(project / name, folder / name)
    values = {
        "port": PORT,
        "controlnet": controlnet,
        "base": base,
        "controlnet_id": controlnet.partition("@")[0],
        "base_id": base.partition("@")[0],
        "credits": "\n\n".join(credits),
    }
    (folder / "README.md").write_text(README.format(**values), encoding="utf-8")
    (folder / "Dockerfile").write_text(DOCKERFILE.format(**values), encoding="utf-8")
    return folder
