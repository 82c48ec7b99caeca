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
from rasterio.enums import ColorInterp
from rasterio.io import MemoryFile

from aerialdreams.data.georeference import GeoReference
from aerialdreams.data.land_cover import LandCoverClass
from aerialdreams.data.spec import RGB_ONLY, FurtherBands
from aerialdreams.util.files import atomic_file

INTERPRETATIONS = {
    "red": ColorInterp.red,
    "green": ColorInterp.green,
    "blue": ColorInterp.blue,
    "near_infrared": ColorInterp.nir,
    "height": ColorInterp.undefined,
    "alpha": ColorInterp.alpha,
}


def write_geotiff(
    path: Path,
    image: NDArray[np.uint8],
    reference: GeoReference,
    tags: Mapping[str, str],
    classes: list[LandCoverClass] | None = None,
    further: FurtherBands = RGB_ONLY,
) -> None:
    """Write an image or a mask as a cloud-optimised GeoTIFF.

    Args:
        path: the GeoTIFF.
        image: RGB, further bands and, if there is one, alpha, (height, width, bands); or one band,
            (height, width).
        reference: its georeference.
        tags: GDAL metadata.
        classes: for class ids, the class table; it becomes the file's colour table.
        further: the bands after red, green and blue; the file has their names, and the scale and
            the offset that turn stored values into heights in metres.
    """
    bands = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
    count, height, width = bands.shape
    profile: dict[str, Any] = {"driver": "GTiff", "dtype": "uint8", "count": count}
    profile |= {"height": height, "width": width, "transform": reference.transform}
    photometric = "RGB" if count > 1 else "PALETTE" if classes else "MINISBLACK"
    profile |= {"crs": reference.crs, "photometric": photometric}
    has_alpha = count == 4 + len(further.names)
    if has_alpha and count == 4:
        profile["alpha"] = "yes"
    with MemoryFile() as memory:
        with memory.open(**profile) as file:
            if further.names:
                _describe_bands(file, further, has_alpha)
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


def _describe_bands(file: Any, further: FurtherBands, has_alpha: bool) -> None:
    """Set names, colour interpretation, units, scales and offsets of an image's bands."""
    names = ["red", "green", "blue", *further.names, *(["alpha"] if has_alpha else [])]
    file.descriptions = names
    file.colorinterp = [INTERPRETATIONS[name] for name in names]
    low, high = further.height_metres
    is_height = [name == "height" for name in names]
    file.units = ["m" if height else "" for height in is_height]
    file.scales = [(high - low) / 255 if height else 1 for height in is_height]
    file.offsets = [low if height else 0 for height in is_height]


class _Source(NamedTuple):
    """A GeoTIFF of a VRT."""

    path: Path
    width: int
    height: int
    transform: Affine


def write_vrt(path: Path, files: Sequence[Path], colours: Sequence[str] = ()) -> None:
    """Write a VRT (https://gdal.org/drivers/raster/vrt.html) that shows GeoTIFFs as one raster.

    Args:
        path: the VRT. It refers to the GeoTIFFs by paths relative to its folder.
        files: GeoTIFFs below the VRT's folder, at least one, with the same CRS, pixel size and
            bands, on one grid.
        colours: names of three bands that the VRT shows as red, green and blue, such as
            near_infrared, red, green; empty for all bands as they are.
    """
    sources = []
    for name in files:
        with rasterio.open(name) as file:
            colour_table = file.colormap(1) if file.count == 1 else None
            bands, crs = _vrt_bands(file, colours), file.crs
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
    for number, (own, properties) in enumerate(bands, start=1):
        band = ElementTree.SubElement(root, "VRTRasterBand", dataType="Byte", band=str(number))
        for key, value in properties.items():
            ElementTree.SubElement(band, key).text = value
        if colour_table:
            _add_colour_table(band, colour_table)
        for source, (x, y) in zip(sources, offsets, strict=True):
            file_name = source.path.relative_to(path.parent).as_posix()
            _add_source(band, own, file_name, source, x, y)
    ElementTree.indent(root)
    with atomic_file(path) as partial:
        ElementTree.ElementTree(root).write(partial, encoding="utf-8")


def _vrt_bands(file: Any, colours: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """The number in a GeoTIFF and the properties of each band of a VRT; see `write_vrt`."""
    if colours:
        numbers = [file.descriptions.index(name) + 1 for name in colours]
        interpretations = zip(("Red", "Green", "Blue"), colours, strict=True)
        properties = [{"Description": name, "ColorInterp": c} for c, name in interpretations]
        return list(zip(numbers, properties, strict=True))
    bands = []
    for position, interpretation in enumerate(file.colorinterp):
        own = {"ColorInterp": interpretation.name.capitalize()}
        if file.descriptions[position]:
            own = {"Description": file.descriptions[position]} | own
        if file.units[position]:
            own |= {"UnitType": file.units[position]}
            own |= {"Offset": repr(file.offsets[position]), "Scale": repr(file.scales[position])}
        bands.append((position + 1, own))
    return bands


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
