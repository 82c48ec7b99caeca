"""Georeferenced outputs: cloud-optimised GeoTIFFs, and VRTs that show several as one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.io import MemoryFile

from aerialdreams.data.georeference import GeoReference
from aerialdreams.data.land_cover import LandCoverClass
from aerialdreams.util.files import atomic_file


def write_geotiff(
    path: Path,
    image: NDArray[np.uint8],
    reference: GeoReference,
    tags: Mapping[str, str],
    classes: list[LandCoverClass] | None = None,
) -> None:
    """Write an image or a mask as a cloud-optimised GeoTIFF.

    Args:
        path: the file.
        image: RGB, (height, width, 3); RGB and alpha, (height, width, 4); or class ids, (height,
            width).
        reference: its position.
        tags: the file's metadata.
        classes: the class table of a mask; it becomes the file's colour table.
    """
    bands = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
    count, height, width = bands.shape
    profile: dict[str, Any] = {"driver": "GTiff", "dtype": "uint8", "count": count}
    profile |= {"height": height, "width": width, "transform": reference.transform}
    profile |= {"crs": reference.crs, "photometric": "PALETTE" if count == 1 else "RGB"}
    if count == 4:
        profile["alpha"] = "yes"
    with MemoryFile() as memory:
        with memory.open(**profile) as file:
            file.write(bands)
            file.update_tags(**tags)
            if classes:
                table = {number: (*c.rgb, 255) for number, c in enumerate(classes, start=1)}
                file.write_colormap(1, table)
            # Overviews of a mask are by nearest neighbour: a mean of two ids is a third class.
        settings = {"COMPRESS": "DEFLATE", "PREDICTOR": "NO" if count == 1 else "YES"}
        settings["OVERVIEW_RESAMPLING"] = "NEAREST" if count == 1 else "AVERAGE"
        with atomic_file(path) as partial, memory.open() as file:
            rasterio.shutil.copy(file, partial, driver="COG", **settings)


def write_vrt(path: Path, files: Sequence[Path]) -> None:
    """Write a VRT (https://gdal.org/drivers/raster/vrt.html) that shows GeoTIFFs as one raster.

    Args:
        path: the file; it names the GeoTIFFs relative to itself.
        files: GeoTIFFs with the same CRS, pixel size and bands, on one grid.
    """
    opened = []
    for name in files:
        with rasterio.open(name) as file:
            table = file.colormap(1) if file.count == 1 else None
            opened.append((name, file.transform, file.width, file.height, file.count, file.crs))
    west = min(transform.c for _, transform, *_ in opened)
    north = max(transform.f for _, transform, *_ in opened)
    _, first, _, _, count, crs = opened[0]
    places = [
        (name, round((t.c - west) / first.a), round((t.f - north) / first.e), width, height)
        for name, t, width, height, _, _ in opened
    ]
    size = (max(x + w for _, x, _, w, _ in places), max(y + h for _, _, y, _, h in places))
    root = ElementTree.Element("VRTDataset", rasterXSize=str(size[0]), rasterYSize=str(size[1]))
    if crs:
        ElementTree.SubElement(root, "SRS").text = crs.to_wkt()
    corner = (west, first.a, 0.0, north, 0.0, first.e)
    ElementTree.SubElement(root, "GeoTransform").text = ", ".join(map(repr, corner))
    for number in range(1, count + 1):
        band = ElementTree.SubElement(root, "VRTRasterBand", dataType="Byte", band=str(number))
        colour = ("Red", "Green", "Blue")[number - 1] if count == 3 else "Palette"
        ElementTree.SubElement(band, "ColorInterp").text = colour
        if table:
            entries = ElementTree.SubElement(band, "ColorTable")
            for entry in (table.get(i, (0, 0, 0, 255)) for i in range(max(table) + 1)):
                values = dict(zip(("c1", "c2", "c3", "c4"), map(str, entry), strict=True))
                ElementTree.SubElement(entries, "Entry", values)
        for name, x, y, width, height in places:
            source = ElementTree.SubElement(band, "SimpleSource")
            where = ElementTree.SubElement(source, "SourceFilename", relativeToVRT="1")
            where.text = name.relative_to(path.parent).as_posix()
            ElementTree.SubElement(source, "SourceBand").text = str(number)
            extent = {"xSize": str(width), "ySize": str(height)}
            ElementTree.SubElement(source, "SrcRect", {"xOff": "0", "yOff": "0"} | extent)
            ElementTree.SubElement(source, "DstRect", {"xOff": str(x), "yOff": str(y)} | extent)
    ElementTree.indent(root)
    with atomic_file(path) as partial:
        ElementTree.ElementTree(root).write(partial, encoding="utf-8")
