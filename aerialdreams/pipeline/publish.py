"""Publish the dataset or a model on the Hugging Face hub, with the licences that it owes."""

import os
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from aerialdreams.errors import UserError, WorkError
from aerialdreams.paths import CONTROLNET, DATASET

# What a card owes, in whatever words it says them.
CREDITS = ("IGN", "Licence Ouverte", "OpenStreetMap contributors", "ODbL")


# What may leave: its folder, the hub's kind of it, and files that it must hold.
FOLDERS = {"dataset": DATASET, "controlnet": CONTROLNET}


KINDS = {"dataset": "dataset", "controlnet": "model"}


NEEDED = {
    "dataset": ("data/train-*.parquet", "data/validation-*.parquet", "data/test-*.parquet"),
    "controlnet": ("config.json", "*.safetensors", "aerialdreams.json"),
}


UNKNOWN_LICENCE = "see-card"  # what a model's card says where its base model names none


@dataclass
class Shipment:
    """What would leave, checked."""

    folder: Path
    kind: str  # the hub's: dataset or model
    files: list[tuple[str, int]]  # name and bytes
    licence: str


def pack(what: str) -> Shipment:
    """Check a folder before anything of it leaves.

    Args:
        what: "dataset" or "controlnet".

    Raises:
        UserError: a file is missing or damaged, or the card lacks a licence or a credit.
    """
    folder = FOLDERS[what]
    if not folder.is_dir():
        raise UserError(f"{folder}: not found; `dvc repro` makes it, `dvc pull` brings it")
    for pattern in NEEDED[what]:
        if not any(folder.glob(pattern)):
            raise UserError(f"{folder}: has no {pattern}; `dvc checkout` it")
    for shard in folder.glob("data/*.parquet"):
        try:
            pq.read_metadata(shard)
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{shard}: cannot be read ({error}); `dvc checkout` it") from None
    licence = licence_of(folder / "README.md")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    listed = [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in files]
    return Shipment(folder, KINDS[what], listed, licence)


def licence_of(card: Path) -> str:
    """The licence that a card names, once it names all that is owed.

    Raises:
        UserError: the card is missing, or lacks a licence or a credit.
    """
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    head, _, body = text.removeprefix("---\n").partition("\n---\n")
    try:
        named = (yaml.safe_load(head) if text.startswith("---\n") else {}) or {}
    except yaml.YAMLError:
        named = {}
    licence = named.get("license_name") or named.get("license")
    missing = [] if licence and licence != UNKNOWN_LICENCE else ["a licence in its head"]
    missing += [words for words in CREDITS if words not in body]
    if missing:
        raise UserError(
            f"{card}: lacks {', '.join(missing)}; nothing leaves without licence and credits:"
            " `dvc checkout` the card, or write them into it"
        )
    return str(licence)


def publish(what: str, repo: str, private: bool, revision: str, dry_run: bool) -> str:
    """Push a folder to the hub; what is there already is not sent again.

    Args:
        what: "dataset" or "controlnet".
        repo: its name there, OWNER/NAME.
        private: whether only its owner sees it, where it is made now.
        revision: the branch.
        dry_run: only say what would leave.

    Returns:
        What left, or would.

    Raises:
        UserError: see `pack`; or the hub does not take the token or the name.
        WorkError: the hub cannot be reached.
    """
    shipment = pack(what)
    total = sum(size for _, size in shipment.files) / 1e6
    said = f"{shipment.kind} {repo} at {revision}, {'private' if private else 'public'}"
    said += f", licence {shipment.licence}: {len(shipment.files)} files, {total:.1f} MB"
    if dry_run:
        rows = [f"{size:>14,}  {name}" for name, size in shipment.files]
        return "\n".join([*rows, f"would publish {said}; nothing has left"])
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    hub = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=os.environ.get("HF_TOKEN"))
    try:
        hub.create_repo(repo, repo_type=shipment.kind, private=private, exist_ok=True)
        if revision != "main":
            hub.create_branch(repo, branch=revision, repo_type=shipment.kind, exist_ok=True)
        hub.upload_folder(
            repo_id=repo,
            folder_path=shipment.folder,
            repo_type=shipment.kind,
            revision=revision,
            commit_message=f"AerialDreams {what}",
        )
    except (LocalTokenNotFoundError, HFValidationError) as error:
        raise UserError(f"{repo}: {str(error).splitlines()[0]}") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        first = str(error).strip().splitlines()[0]
        if status in (401, 403, 404):
            raise UserError(
                f"{repo}: the hub does not let you write there ({first}); set HF_TOKEN to a token"
                " that may write, from huggingface.co/settings/tokens"
            ) from None
        raise WorkError(f"{repo}: {first}; try again, what is there is not sent anew") from None
    except (httpx2.HTTPError, OSError) as error:
        raise WorkError(f"{repo}: the hub cannot be reached ({error}); try again") from None
    return f"published {said}"
