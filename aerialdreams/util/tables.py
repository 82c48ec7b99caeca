"""Parquet tables, one row per patch, same bytes every time."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from aerialdreams.errors import UserError
from aerialdreams.util.files import atomic_file

if TYPE_CHECKING:  # half of the time that a worker takes to start
    import pandas as pd


def write_table(
    path: Path, rows: list[dict[str, Any]], schema: pa.Schema, notice: str | None = None
) -> None:
    """Write rows as Parquet; a key that a row lacks is null.

    Args:
        path: the file.
        rows: one dict a row.
        schema: the columns, in their order.
        notice: whose data it is and under which licence, kept in the schema's metadata.
    """
    if notice:
        schema = schema.with_metadata({"notice": notice})
    with atomic_file(path) as partial:
        pq.write_table(pa.Table.from_pylist(rows, schema), partial)


def read_table(path: Path, columns: list[str] | None = None) -> "pd.DataFrame":
    """Read a table that a stage wrote; patch ids are text, and nulls are NaN or None.

    Args:
        path: the file.
        columns: those to read, or None for all.

    Raises:
        UserError: the file is missing or no Parquet.
    """
    try:
        return pq.read_table(path, columns=columns).to_pandas()
    except FileNotFoundError:
        raise UserError(f"{path}: not found; `dvc repro` makes it") from None
    except pa.ArrowInvalid as error:
        raise UserError(
            f"{path}: not a Parquet file ({error}); remove it and `dvc repro`"
        ) from None
