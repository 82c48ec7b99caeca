"""Parquet tables with one row per patch; equal rows give equal bytes."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from aerialdreams.errors import UserError
from aerialdreams.util.files import atomic_file

if TYPE_CHECKING:  # importing pandas takes half of a worker's start-up time
    import pandas as pd


def write_table(
    path: Path, rows: list[dict[str, Any]], schema: pa.Schema, notice: str | None = None
) -> None:
    """Write rows as Parquet.

    Args:
        path: the file.
        rows: one dict per row; missing keys become null.
        schema: the columns, in their order.
        notice: credit and licence of the data, kept in the schema's metadata.
    """
    if notice:
        schema = schema.with_metadata({"notice": notice})
    with atomic_file(path) as partial:
        pq.write_table(pa.Table.from_pylist(rows, schema), partial)


def read_table(path: Path, columns: list[str] | None = None) -> "pd.DataFrame":
    """Read a table that a stage wrote.

    Args:
        path: the file.
        columns: names of the columns to read; None reads all.

    Returns:
        The table; patch ids are strings, and nulls are NaN or None.

    Raises:
        UserError: the file is missing or not Parquet.
    """
    try:
        return pq.read_table(path, columns=columns).to_pandas()
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run `dvc repro`") from None
    except pa.ArrowInvalid as error:
        raise UserError(
            f"{path}: not a Parquet file ({error}); remove it and run `dvc repro`"
        ) from None
