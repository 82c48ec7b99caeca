"""Uploads dataset, base model or ControlNet to the Hugging Face hub, after checking its licence."""

import os
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from aerialdreams.errors import UserError, WorkError
from aerialdreams.paths import ADAPTED_BASE, CONTROLNET, DATASET
from aerialdreams.util.files import read_json

# By name of what can be published: its folder, the hub's type of repository, required files.
FOLDERS = {"dataset": DATASET, "base": ADAPTED_BASE, "controlnet": CONTROLNET}
REPO_TYPES = {"dataset": "dataset", "base": "model", "controlnet": "model"}
REQUIRED_FILES = {
    "dataset": ("data/train-*.parquet",),
    "base": ("model_index.json", "unet/*.safetensors", "source.json"),
    "controlnet": ("config.json", "*.safetensors", "aerialdreams.json"),
}

UNKNOWN_LICENCE = "see-card"  # in a model's card if its base model names no licence


@dataclass
class Upload:
    """A checked folder that is ready to be uploaded."""

    folder: Path
    repo_type: str  # dataset, model or space
    files: list[tuple[str, int]]  # name and bytes
    licence: str


def check_upload(name: str, credits: list[str]) -> Upload:
    """Check a folder before it is uploaded.

    Args:
        name: "dataset", "base" or "controlnet".
        credits: credit lines that its card must contain.

    Raises:
        UserError: a file is missing or damaged, the card lacks a licence or a credit, or the base
            model is the hub's own.
    """
    folder = FOLDERS[name]
    if not folder.is_dir():
        raise UserError(f"{folder}: not found; run `dvc repro` or `dvc pull`")
    for pattern in REQUIRED_FILES[name]:
        if not any(folder.glob(pattern)):
            raise UserError(f"{folder}: has no {pattern}; run `dvc checkout {folder}`")
    if name == "base":
        origin = read_json(folder / "source.json")
        if origin["source"] == "hub" and "adaptation" not in origin:
            raise UserError(f"{folder}: is {origin['id']} of the hub, unchanged; use it from there")
    for shard in folder.glob("data/*.parquet"):
        try:
            pq.read_metadata(shard)
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(
                f"{shard}: cannot be read ({error}); run `dvc checkout {folder}`"
            ) from None
    licence = licence_of(folder / "README.md", credits)
    return Upload(folder, REPO_TYPES[name], list_sizes(folder), licence)


def list_sizes(folder: Path) -> list[tuple[str, int]]:
    """Names and bytes of all files of a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in files]


def licence_of(card: Path, credits: list[str]) -> str:
    """The licence in a card's metadata.

    Raises:
        UserError: the card is missing, or lacks a licence or a credit.
    """
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    metadata_text, _, body = text.removeprefix("---\n").partition("\n---\n")
    try:
        metadata = (yaml.safe_load(metadata_text) if text.startswith("---\n") else {}) or {}
    except yaml.YAMLError:
        metadata = {}
    licence = metadata.get("license_name") or metadata.get("license")
    missing = [] if licence and licence != UNKNOWN_LICENCE else ["a licence in its metadata"]
    missing += [credit for credit in credits if credit not in body]
    if missing:
        raise UserError(
            f"{card}: lacks {', '.join(missing)}; nothing is uploaded without licence and credits:"
            " restore the card with `dvc checkout`, or add them"
        )
    return str(licence)


def publish(
    name: str, repo: str, private: bool, revision: str, dry_run: bool, credits: list[str]
) -> str:
    """Upload a folder to the hub. Files that the hub has already are not sent again.

    Args:
        name: "dataset", "base" or "controlnet".
        repo: the repository on the hub, OWNER/NAME; it is created if it does not exist.
        private: whether a new repository is private.
        revision: the branch.
        dry_run: list the files instead of uploading them.
        credits: credit lines that its card must contain.

    Returns:
        A summary; of a dry run, also names and sizes of the files.

    Raises:
        UserError: see `check_upload`; or the hub rejects the token or the repository's name.
        WorkError: the hub cannot be reached, or failed.
    """
    return upload_folder(check_upload(name, credits), repo, private, revision, dry_run)


def upload_folder(upload: Upload, repo: str, private: bool, revision: str, dry_run: bool) -> str:
    """Upload a checked folder; see `publish`."""
    total = sum(size for _, size in upload.files) / 1e6
    summary = f"{upload.repo_type} {repo} at {revision}, {'private' if private else 'public'}"
    summary += f", licence {upload.licence}: {len(upload.files)} files, {total:.1f} MB"
    if dry_run:
        rows = [f"{size:>14,}  {file}" for file, size in upload.files]
        return "\n".join([*rows, f"would publish {summary}; nothing was uploaded"])
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    hub = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=os.environ.get("HF_TOKEN"))
    try:
        hub.create_repo(
            repo,
            repo_type=upload.repo_type,
            private=private,
            exist_ok=True,
            space_sdk="docker" if upload.repo_type == "space" else None,
        )
        if revision != "main":
            hub.create_branch(repo, branch=revision, repo_type=upload.repo_type, exist_ok=True)
        hub.upload_folder(
            repo_id=repo,
            folder_path=upload.folder,
            repo_type=upload.repo_type,
            revision=revision,
            commit_message=f"AerialDreams {upload.folder.name}",
        )
    except (LocalTokenNotFoundError, HFValidationError) as error:
        raise UserError(f"{repo}: {str(error).splitlines()[0]}") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        message = str(error).strip().splitlines()[0]
        if status in (401, 403, 404):
            raise UserError(
                f"{repo}: the hub denies write access ({message}); set HF_TOKEN to a token with"
                " write access from https://huggingface.co/settings/tokens"
            ) from None
        raise WorkError(
            f"{repo}: {message}; try again, uploaded files are not sent twice"
        ) from None
    except (httpx2.HTTPError, OSError) as error:
        raise WorkError(f"{repo}: the hub cannot be reached ({error}); try again") from None
    return f"published {summary}"
