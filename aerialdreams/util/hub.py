"""Downloads from the Hugging Face hub.

By huggingface_hub: its environment variables (HF_TOKEN, HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE), its
login and its cache mean what they mean everywhere else.
"""

import re
import sys
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from aerialdreams.errors import UserError, WorkError
from aerialdreams.util.retries import report_retry

ATTEMPTS = 5
WAIT, LONGEST_WAIT = 2.0, 60.0  # seconds before the second attempt, doubled with each; at most
COMMIT = re.compile("[0-9a-f]{40}")


def download_snapshot(
    key: str,
    repository: str,
    revision: str,
    patterns: list[str],
    repo_type: Literal["model", "dataset"] = "model",
) -> Path:
    """Download files of a repository into the hub's cache, unless they are there.

    Args:
        key: the params key that names the repository, for messages.
        repository: such as "IGNF/FLAIR-1-2".
        revision: branch, tag or commit hash. Prints a line if it is not a commit hash.
        patterns: which files, as `fnmatch` patterns of their paths.
        repo_type: kind of repository.

    Returns:
        The snapshot's folder in the cache. Its name is the commit hash.

    Raises:
        UserError: there is no such repository or revision, or it needs a token.
        WorkError: the hub cannot be reached, and the cache does not have the files.
    """
    retrying = Retrying(
        retry=retry_if_exception(_is_transient),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_random_exponential(WAIT, LONGEST_WAIT),
        before_sleep=report_retry(f"{key}: {repository}"),
        reraise=True,
    )
    print(f"downloading {repository} at {revision}", file=sys.stderr, flush=True)
    try:
        folder = retrying(
            snapshot_download,
            repository,
            repo_type=repo_type,
            revision=revision,
            allow_patterns=patterns,
        )
    except GatedRepoError:
        raise UserError(
            f"{key}: {repository} is gated; accept its terms on the hub, then `hf auth login` or"
            " set HF_TOKEN"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"{key}: the hub has no {repository}, or it is private; check the name, and for a"
            " private one `hf auth login` or set HF_TOKEN"
        ) from None
    except RevisionNotFoundError:
        raise UserError(f"{key}: {repository} has no revision {revision!r}") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, ConnectionError) as error:
        raise WorkError(f"{key}: {repository}: {_reason(error)}") from None
    commit = Path(folder).name
    if not COMMIT.fullmatch(revision):
        print(
            f"{key}: {repository} is not pinned: {revision!r} is commit {commit} today",
            file=sys.stderr,
            flush=True,
        )
    return Path(folder)


def list_files(repository: str, commit: str, repo_type: Literal["model", "dataset"]) -> list[str]:
    """Paths of all files of a repository.

    Raises:
        WorkError: the hub cannot be reached.
    """
    try:
        return HfApi().list_repo_files(repository, revision=commit, repo_type=repo_type)
    except (HfHubHTTPError, ConnectionError) as error:
        raise WorkError(f"{repository}: {_reason(error)}") from None


def _is_transient(error: BaseException) -> bool:
    """Whether another attempt may succeed."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in (408, 429) or error.response.status_code >= 500
    if isinstance(error, LocalEntryNotFoundError):  # its cause is why the hub was not asked
        cause = error.__cause__
        return cause is not None and not isinstance(cause, OfflineModeIsEnabled)
    return isinstance(error, ConnectionError) and not isinstance(error, OfflineModeIsEnabled)


def _reason(error: Exception) -> str:
    """Why files could not be had, and what to do."""
    if isinstance(error.__cause__ or error, OfflineModeIsEnabled):
        return "not in the hub's cache, and HF_HUB_OFFLINE is set"
    cause = str(error.__cause__ or error).splitlines()[0]
    return (
        f"the hub cannot be reached ({cause}); check the network and HF_ENDPOINT and run `dvc"
        " repro` again: files that are complete are kept"
    )
