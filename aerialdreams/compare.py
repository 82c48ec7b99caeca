"""Experiments side by side: what differs in their params, and whether it makes a difference."""

import base64
import html
import json
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
from numpy.typing import NDArray
from scmrepo.exceptions import SCMError

from aerialdreams.errors import UserError
from aerialdreams.files import whole_file
from aerialdreams.generated import AGREEMENT, GENERATED, MANIFEST
from aerialdreams.params import flat
from aerialdreams.tracking import training_cost

WORKSPACE = "workspace"
SHOWN = 4  # patches of each kind on the page
RESAMPLES = 2000
MEASURES = ("miou", "pixel_accuracy", "class_share_error", "judge_frechet_distance", "fid")
SPLIT = "validation"


@dataclass
class Experiment:
    """What a revision holds of an experiment."""

    name: str
    params: dict[str, Any]  # by dotted name
    report: dict[str, Any]  # metrics/evaluation.json
    agreement: pd.Series  # of generated validation images, by patch id
    manifest: dict[str, Any]
    files: DVCFileSystem

    def image(self, patch_id: str) -> bytes:
        """A generated validation image, as PNG."""
        path = f"{GENERATED}/{SPLIT}/generated/IMG_{patch_id}.png"
        content: bytes = self.files.read_bytes(path)
        return content


def load_experiment(name: str) -> Experiment:
    """Read an experiment from git and from DVC's cache or remote.

    Args:
        name: a git revision, the name of a `dvc exp`, or "workspace".

    Raises:
        UserError: there is no such revision, or a file of it is in neither cache nor remote.
    """
    try:
        files = DVCFileSystem(rev=None if name == WORKSPACE else name)
        params = flat(yaml.safe_load(files.read_text("params.yaml")))
        report = json.loads(files.read_text("metrics/evaluation.json"))
        manifest = json.loads(files.read_text(f"{GENERATED}/{MANIFEST}"))
        table = pq.read_table(pa.BufferReader(files.read_bytes(str(AGREEMENT)))).to_pandas()
    except (DvcException, SCMError, OSError, ValueError) as error:
        message = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{name}: {message}; name a git revision, an experiment of `dvc exp show`, or"
            f" {WORKSPACE}, and have its data (`dvc pull`, `dvc repro`)"
        ) from None
    chosen = table[(table["split"] == SPLIT) & (table["source"] == "generated")]
    agreement = chosen.set_index("patch_id")["pixel_accuracy"].sort_index()
    return Experiment(name, params, report, agreement, manifest, files)


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
                picture = base64.b64encode(one.image(patch_id)).decode()
                words = f"{patch_id}, {html.escape(one.name)}: {one.agreement[patch_id]:.0%}"
                body += f"<figure><img src='data:image/png;base64,{picture}'>{words}</figure>"
            body += "<br>"
    style = "body{font:15px system-ui;margin:2rem} td{padding:.2rem .8rem}"
    style += (
        "figure{display:inline-block;margin:.4rem;font-size:12px} img{display:block;width:12rem}"
    )
    title = " and ".join(html.escape(one.name) for one in experiments)
    with whole_file(path) as partial:
        partial.write_text(
            f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{title}</title>"
            f"<style>{style}</style></head><body><h1>{title}</h1>{body}</body></html>\n",
            encoding="utf-8",
        )
