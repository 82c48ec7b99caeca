"""A page of the zones: their positions, the commune of each patch, an example caption."""

from dataclasses import dataclass

import pandas as pd

from aerialdreams.pipeline.html import render
from aerialdreams.pipeline.zone_map import zone_map

CELL = 14  # pixels of a patch in its zone's grid
# For a zone's communes: colours that most colour-blind readers can tell apart (Okabe and Ito 2008).
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#f0e442")
UNKNOWN = "#cccccc"


@dataclass(frozen=True)
class Cell:
    """A patch in its zone's grid, in pixels from the zone's north-west corner."""

    x: int
    y: int
    size: int
    colour: str
    caption: str


@dataclass(frozen=True)
class Zone:
    """A zone's patches in their grid, coloured by commune.

    Attributes:
        name: group and zone.
        area: square kilometres.
        width: of the grid, pixels.
        height: of the grid, pixels.
        cells: one per patch.
        legend: communes and their colours.
        caption: of the patch in the middle.
    """

    name: str
    area: str
    width: int
    height: int
    cells: list[Cell]
    legend: list[tuple[str, str]]
    caption: str


def zones_page(
    patches: pd.DataFrame, osm_metadata: pd.DataFrame, patch_size: int, credit: str
) -> str:
    """The page as HTML.

    Args:
        patches: rows of the index, with a column `caption`.
        osm_metadata: OpenStreetMap metadata of the same patches; patch_id and commune are read.
        patch_size: height and width of a patch, pixels.
        credit: credit line of the data.
    """
    joined = patches.merge(osm_metadata[["patch_id", "commune"]], on="patch_id")
    groups = [(f"{d}-{z}", rows) for (d, z), rows in joined.groupby(["group", "zone"], sort=False)]
    return render(
        "zones.html",
        title=f"{len(joined)} patches in {len(groups)} zones",
        map=zone_map(dict(groups)),
        zones=[_zone(name, rows, patch_size) for name, rows in groups],
        credit=credit,
    )


def _zone(name: str, rows: pd.DataFrame, patch_size: int) -> Zone:
    communes = [None if pd.isna(commune) else str(commune) for commune in rows["commune"]]
    known = sorted({commune for commune in communes if commune})
    colours = {c: COLOURS[number % len(COLOURS)] for number, c in enumerate(known)}
    legend = list(colours.items())
    if None in communes:
        legend.append(("unknown", UNKNOWN))
    cells = [
        Cell(column * CELL, row * CELL, CELL - 1, colours.get(commune or "", UNKNOWN), caption)
        for column, row, commune, caption in zip(
            rows["zone_column"], rows["zone_row"], communes, rows["caption"], strict=True
        )
    ]
    return Zone(
        name=name,
        area=f"{((patch_size * rows['pixel_size'] / 1000) ** 2).sum():.2f}",
        width=int(rows["zone_column"].max() + 1) * CELL,
        height=int(rows["zone_row"].max() + 1) * CELL,
        cells=cells,
        legend=legend,
        caption=rows["caption"].iloc[len(rows) // 2],
    )
