"""Georeferenced outputs: cloud-optimised GeoTIFFs, and VRTs that mosaic them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
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
        path: the GeoTIFF.
        image: RGB, (height, width, 3); RGB and alpha, (height, width, 4); or one band, (height,
            width).
        reference: its georeference.
        tags: GDAL metadata.
        classes: for class ids, the class table; it becomes the file's colour table.
    """
    bands = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
    count, height, width = bands.shape
    profile: dict[str, Any] = {"driver": "GTiff", "dtype": "uint8", "count": count}
    profile |= {"height": height, "width": width, "transform": reference.transform}
    photometric = "RGB" if count > 1 else "PALETTE" if classes else "MINISBLACK"
    profile |= {"crs": reference.crs, "photometric": photometric}
    if count == 4:
        profile["alpha"] = "yes"
    with MemoryFile() as memory:
        with memory.open(**profile) as file:
            file.write(bands)
            file.update_tags(**tags)
            if classes:
                colour_table = {land_cover.id: (*land_cover.rgb, 255) for land_cover in classes}
                file.write_colormap(1, colour_table)
        settings = {"COMPRESS": "DEFLATE", "PREDICTOR": "NO" if count == 1 else "YES"}
        # Overviews of masks use nearest neighbour: the mean of two ids is another class.
        settings["OVERVIEW_RESAMPLING"] = "NEAREST" if count == 1 else "AVERAGE"
        with atomic_file(path) as partial, memory.open() as file:
            rasterio.shutil.copy(file, partial, driver="COG", **settings)


class _Source(NamedTuple):
    """A GeoTIFF of a VRT."""

    path: Path
    width: int
    height: int
    transform: Affine


def write_vrt(path: Path, files: Sequence[Path]) -> None:
    """Write a VRT (https://gdal.org/drivers/raster/vrt.html) that shows GeoTIFFs as one raster.

    Args:
        path: the VRT. It refers to the GeoTIFFs by paths relative to its folder.
        files: GeoTIFFs below the VRT's folder, at least one, with the same CRS, pixel size and
            bands, on one grid.
    """
    sources = []
    for name in files:
        with rasterio.open(name) as file:
            colour_table = file.colormap(1) if file.count == 1 else None
            count, crs = file.count, file.crs
            sources.append(_Source(name, file.width, file.height, file.transform))
    pixel_width, pixel_height = sources[0].transform.a, sources[0].transform.e  # height < 0
    west = min(source.transform.c for source in sources)
    north = max(source.transform.f for source in sources)
    # Column and row of each GeoTIFF's north-west corner in the VRT.
    offsets = [
        (
            round((source.transform.c - west) / pixel_width),
            round((source.transform.f - north) / pixel_height),
        )
        for source in sources
    ]
    width = max(x + source.width for (x, _), source in zip(offsets, sources, strict=True))
    height = max(y + source.height for (_, y), source in zip(offsets, sources, strict=True))
    root = ElementTree.Element("VRTDataset", rasterXSize=str(width), rasterYSize=str(height))
    if crs:
        ElementTree.SubElement(root, "SRS").text = crs.to_wkt()
    geotransform = (west, pixel_width, 0.0, north, 0.0, pixel_height)
    ElementTree.SubElement(root, "GeoTransform").text = ", ".join(map(repr, geotransform))
    for number in range(1, count + 1):
        band = ElementTree.SubElement(root, "VRTRasterBand", dataType="Byte", band=str(number))
        colour = ("Red", "Green", "Blue")[number - 1] if count == 3 else "Palette"
        ElementTree.SubElement(band, "ColorInterp").text = colour
        if colour_table:
            _add_colour_table(band, colour_table)
        for source, (x, y) in zip(sources, offsets, strict=True):
            file_name = source.path.relative_to(path.parent).as_posix()
            _add_source(band, number, file_name, source, x, y)
    ElementTree.indent(root)
    with atomic_file(path) as partial:
        ElementTree.ElementTree(root).write(partial, encoding="utf-8")


def _add_colour_table(
    band: ElementTree.Element, colour_table: Mapping[int, tuple[int, int, int, int]]
) -> None:
    element = ElementTree.SubElement(band, "ColorTable")
    for value in range(max(colour_table) + 1):
        colour = map(str, colour_table.get(value, (0, 0, 0, 255)))
        entry = dict(zip(("c1", "c2", "c3", "c4"), colour, strict=True))
        ElementTree.SubElement(element, "Entry", entry)


def _add_source(
    band: ElementTree.Element, number: int, file_name: str, source: _Source, x: int, y: int
) -> None:
    element = ElementTree.SubElement(band, "SimpleSource")
    ElementTree.SubElement(element, "SourceFilename", relativeToVRT="1").text = file_name
    ElementTree.SubElement(element, "SourceBand").text = str(number)
    size = {"xSize": str(source.width), "ySize": str(source.height)}
    ElementTree.SubElement(element, "SrcRect", {"xOff": "0", "yOff": "0"} | size)
    ElementTree.SubElement(element, "DstRect", {"xOff": str(x), "yOff": str(y)} | size)
