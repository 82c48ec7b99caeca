"""Experiments side by side: what differs in their params, and whether it makes a difference."""

import base64
import html
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray
from scmrepo.exceptions import SCMError

from aerialdreams.errors import UserError
from aerialdreams.generation.outputs import MANIFEST
from aerialdreams.params import flat
from aerialdreams.paths import AGREEMENT, EVALUATION, GENERATED
from aerialdreams.pipeline.mlflow_store import connect
from aerialdreams.pipeline.tracking import training_cost
from aerialdreams.util.files import atomic_file

WORKSPACE = "workspace"


RUN = "run:"  # before the id of a run in MLflow


SHOWN = 4  # patches of each kind on the page


RESAMPLES = 2000


MEASURES = (
    "miou",
    "miou_of_real",
    "pixel_accuracy",
    "class_share_error",
    "judge_frechet_distance",
    "judge_kernel_distance",
    "judge_sample_spread",
    "fid",
    "kid",
)


SPLIT = "validation"


SHEET = GENERATED / f"{SPLIT}.png"


@dataclass
class Experiment:
    """What a revision or a run holds of an experiment."""

    name: str
    params: dict[str, Any]  # by dotted name
    report: dict[str, Any]  # metrics/evaluation.json
    agreement: pd.Series  # of generated validation images, by patch id
    manifest: dict[str, Any]
    read: Callable[[Path], bytes]  # a file of it, by its path in the project

    def image(self, patch_id: str) -> bytes:
        """A generated validation image, as PNG; of a run in MLflow there are none (b"")."""
        if self.name.startswith(RUN):
            return b""
        return self.read(GENERATED / SPLIT / f"generated/IMG_{patch_id}.png")


def load_experiment(name: str) -> Experiment:
    """Read an experiment from git and DVC's cache or remote, or from MLflow.

    Args:
        name: a git revision, the name of a `dvc exp`, "workspace", or "run:" and the id of a run.

    Raises:
        UserError: there is no such thing, or a file of it is neither here nor in a remote.
    """
    try:
        read = read_from_run(name) if name.startswith(RUN) else read_from_revision(name)
        params = flat(yaml.safe_load(read(Path("params.yaml"))))
        report = json.loads(read(EVALUATION))
        manifest = json.loads(read(GENERATED / MANIFEST))
        table = pq.read_table(pa.BufferReader(read(AGREEMENT))).to_pandas()
    except (DvcException, SCMError, MlflowException, OSError, ValueError) as error:
        message = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{name}: {message}; name a git revision, an experiment of `dvc exp show`,"
            f" {WORKSPACE}, or {RUN}ID of an evaluated run in MLflow, and have its data"
            " (`dvc pull`, `dvc repro`)"
        ) from None
    chosen = table[(table["split"] == SPLIT) & (table["source"] == "generated")]
    agreement = chosen.set_index("patch_id")["pixel_accuracy"].sort_index()
    return Experiment(name, params, report, agreement, manifest, read)


def read_from_revision(name: str) -> Callable[[Path], bytes]:
    """What reads the files of a git revision, of an experiment or of the workspace."""
    files = DVCFileSystem(rev=None if name == WORKSPACE else name)

    def read(path: Path) -> bytes:
        content: bytes = files.read_bytes(path.as_posix())
        return content

    return read


def read_from_run(name: str) -> Callable[[Path], bytes]:
    """What reads the files that evaluate-FID left with a run."""
    client, _ = connect()
    client.get_run(name.removeprefix(RUN))

    def read(path: Path) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            at = f"evaluation/{path.name}"
            return Path(client.download_artifacts(name.removeprefix(RUN), at, folder)).read_bytes()

    return read


@dataclass
class Difference:
    """How much more of the ground one experiment's images show as asked than the first one's."""

    patches: int  # that both have
    mean: float
    low: float  # with `high`, what holds the mean with 95 %
    high: float

    @property
    def real(self) -> bool:
        """Whether the interval leaves out no difference at all."""
        return not self.low <= 0 <= self.high


def difference(first: pd.Series, other: pd.Series) -> Difference:
    """Compare pixel accuracies patch by patch, by bootstrap over the patches that both have.

    Pairs tell smaller differences apart than two intervals do: a hard mask is hard for both. What
    another training seed would change is not in it.

    Raises:
        UserError: they have no patch in common.
    """
    both = first.index.intersection(other.index)
    if not len(both):
        raise UserError("the experiments have no validation patch in common")
    gains: NDArray[np.float64] = (other[both] - first[both]).to_numpy()
    draws = np.random.default_rng(0).integers(len(gains), size=(RESAMPLES, len(gains)))
    low, high = np.percentile(gains[draws].mean(1), [2.5, 97.5])
    return Difference(len(gains), float(gains.mean()), float(low), float(high))


def compare(names: list[str], page: Path | None) -> str:
    """Compare experiments with the first of them.

    Args:
        names: see `load_experiment`; two or more.
        page: an HTML page to write with images of the same masks and noise, or None.

    Returns:
        Text to print: params that differ, measures, and whether differences are real.

    Raises:
        UserError: one of them cannot be read.
    """
    experiments = [load_experiment(name) for name in names]
    tables = {
        "Params that differ": params_table(experiments),
        f"Measures ({SPLIT})": measures_table(experiments),
        "Cost of the training": cost_table(experiments),
    }
    verdicts = [verdict(experiments[0], other) for other in experiments[1:]]
    if page:
        write_page(page, experiments, tables, verdicts)
    text = [f"{title}\n{as_text(rows)}" for title, rows in tables.items()]
    return "\n\n".join([*text, "\n".join(verdicts)])


def params_table(experiments: list[Experiment]) -> list[list[str]]:
    """Params that are not the same in all."""
    keys = dict.fromkeys(key for one in experiments for key in one.params)
    rows = [["", *(one.name for one in experiments)]]
    for key in keys:
        values = [str(one.params.get(key, "")) for one in experiments]
        if len(set(values)) > 1 and not key.startswith("runtime."):
            rows.append([key, *values])
    return rows


def measures_table(experiments: list[Experiment]) -> list[list[str]]:
    """Generated images' measures, with their intervals."""
    rows = [["", *(one.name for one in experiments)]]
    for key in MEASURES:
        cells = []
        for one in experiments:
            numbers = one.report[SPLIT]["generated"]
            value, interval = numbers.get(key, ""), numbers.get(f"{key}_95")
            cell = f"{value:.4f}" if isinstance(value, float) else str(value)
            cells.append(cell + (f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else ""))
        rows.append([key, *cells])
    return rows


def cost_table(experiments: list[Experiment]) -> list[list[str]]:
    """Minutes and memory of the trainings, as MLflow has them, found by their models' hash."""
    rows = [["", *(one.name for one in experiments)]]
    costs = [training_cost(one.manifest["controlnet_md5"]) for one in experiments]
    for key in dict.fromkeys(key for cost in costs for key in cost):
        rows.append([key, *(str(cost.get(key, "not in this MLflow store")) for cost in costs)])
    return rows


def verdict(first: Experiment, other: Experiment) -> str:
    """Whether the difference in agreement with the mask is real, in a sentence."""
    found = difference(first.agreement, other.agreement)
    said = (
        f"{other.name} shows {found.mean:+.2%} of the pixels as asked beside {first.name}"
        f" ({found.low:+.2%} to {found.high:+.2%}, N = {found.patches})"
    )
    if found.real:
        return f"{said}: the difference is real for these weights; other seeds may differ."
    return f"{said}: no difference that these patches can tell."


def as_text(rows: list[list[str]]) -> str:
    """A table in columns of letters of one width."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def figure(png: bytes, words: str) -> str:
    """A picture with its words; where there is none, the words alone."""
    picture = f"<img src='data:image/png;base64,{base64.b64encode(png).decode()}'>" if png else ""
    return f"<figure>{picture}{words}</figure>"


def write_page(
    path: Path,
    experiments: list[Experiment],
    tables: dict[str, list[list[str]]],
    verdicts: list[str],
) -> None:
    """Tables, verdicts, and images of the same masks and noise side by side, as one HTML page."""
    first, last = experiments[0].agreement, experiments[-1].agreement
    gains = (last - first).dropna().sort_values(kind="stable")
    chosen = {
        f"Where {experiments[-1].name} gains most": gains.index[::-1][:SHOWN],
        "Where it loses most": gains.index[:SHOWN],
    }
    body = "".join(f"<p>{html.escape(line)}</p>" for line in verdicts)
    for title, rows in tables.items():
        lines = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in rows
        )
        body += f"<h2>{html.escape(title)}</h2><table>{lines}</table>"
    for title, ids in chosen.items():
        body += f"<h2>{html.escape(title)}</h2>"
        for patch_id in ids:
            for one in experiments:
                words = f"{patch_id}, {html.escape(one.name)}: {one.agreement[patch_id]:.0%}"
                body += figure(one.image(patch_id), words)
            body += "<br>"
    body += f"<h2>Masks, real and generated images of the {SPLIT} split</h2>"
    body += "".join(figure(one.read(SHEET), html.escape(one.name)) for one in experiments)
    style = "body{font:15px system-ui;margin:2rem} td{padding:.2rem .8rem}"
    style += "figure{display:inline-block;margin:.4rem;font-size:12px}"
    style += "img{display:block;min-width:12rem}"
    title = " and ".join(html.escape(one.name) for one in experiments)
    with atomic_file(path) as partial:
        partial.write_text(
            f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{title}</title>"
            f"<style>{style}</style></head><body><h1>{title}</h1>{body}</body></html>\n",
            encoding="utf-8",
        )
