"""A page to look at: where the zones lie, the commune of each of their patches, a caption each."""

from html import escape

import pandas as pd

from aerialdreams.data.flair import PATCH_SIZE, PIXEL_SIZE

CELL = 14  # pixels of a patch in its zone's grid


MAP = 520  # pixels of the map's longer side


# Colours that stay apart, also to most colour-blind (Okabe and Ito's), for a zone's communes.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#f0e442")


UNKNOWN = "#cccccc"


STYLE = """
body {font: 15px/1.4 system-ui, sans-serif; margin: 2em; color: #222}
.zones {display: flex; flex-wrap: wrap; gap: 1.5em}
.zone {width: 21em}
h2 {font-size: 1em; margin: 0 0 .4em}
.key {display: inline-block; width: .8em; height: .8em; margin-right: .3em}
p {margin: .3em 0}
"""


def zones_page(patches: pd.DataFrame, places: pd.DataFrame, credit: str) -> str:
    """The page, in HTML that needs nothing beside it.

    Args:
        patches: rows of the index, with their captions.
        places: the same patches' rows of OpenStreetMap metadata.
        credit: whose data it is.
    """
    joined = patches.merge(places[["patch_id", "commune"]], on="patch_id")
    zones = [(f"{d}-{z}", rows) for (d, z), rows in joined.groupby(["domain", "zone"], sort=False)]
    cards = "\n".join(_zone(name, rows) for name, rows in zones)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Zones</title>'
        f"<style>{STYLE}</style></head>\n<body><h1>{len(joined)} patches in {len(zones)} zones</h1>"
        f'\n{_map(zones)}\n<div class="zones">\n{cards}\n</div>\n<p>{escape(credit)}</p>'
        "</body></html>\n"
    )


def _map(zones: list[tuple[str, pd.DataFrame]]) -> str:
    """A point for each zone, north up, on Lambert-93's plane."""
    x = [rows["origin_x"].mean() for _, rows in zones]
    y = [rows["origin_y"].mean() for _, rows in zones]
    scale = (MAP - 20) / max(max(x) - min(x), max(y) - min(y), 1)
    points = "".join(
        f'<a href="#{escape(name)}"><circle cx="{10 + (east - min(x)) * scale:.1f}"'
        f' cy="{10 + (max(y) - north) * scale:.1f}" r="4" fill="{COLOURS[0]}" fill-opacity=".6">'
        f"<title>{escape(name)}</title></circle></a>"
        for (name, _), east, north in zip(zones, x, y, strict=True)
    )
    height = 20 + (max(y) - min(y)) * scale
    return f'<svg width="{MAP}" height="{height:.0f}" role="img">{points}</svg>'


def _zone(name: str, rows: pd.DataFrame) -> str:
    """A zone's patches in their grid, coloured by commune, and the caption of the middle one."""
    communes = [None if pd.isna(commune) else str(commune) for commune in rows["commune"]]
    known = sorted({commune for commune in communes if commune})
    colour = {c: COLOURS[number % len(COLOURS)] for number, c in enumerate(known)}
    cells = "".join(
        f'<rect x="{column * CELL}" y="{row * CELL}" width="{CELL - 1}" height="{CELL - 1}"'
        f' fill="{colour.get(commune or "", UNKNOWN)}"><title>{escape(caption)}</title></rect>'
        for column, row, commune, caption in zip(
            rows["zone_column"], rows["zone_row"], communes, rows["caption"], strict=True
        )
    )
    width = (rows["zone_column"].max() + 1) * CELL
    height = (rows["zone_row"].max() + 1) * CELL
    keys = "".join(
        f'<p><span class="key" style="background:{colour[c]}"></span>{escape(c)}</p>' for c in known
    )
    if None in communes:
        keys += f'<p><span class="key" style="background:{UNKNOWN}"></span>not known</p>'
    area = len(rows) * (PATCH_SIZE * PIXEL_SIZE / 1000) ** 2
    return (
        f'<div class="zone" id="{escape(name)}"><h2>{escape(name)}, {len(rows)} patches,'
        f' {area:.2f} km²</h2><svg width="{width}" height="{height}">{cells}</svg>{keys}'
        f"<p>{escape(rows['caption'].iloc[len(rows) // 2])}</p></div>"
    )
