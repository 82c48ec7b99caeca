"""Masks from vector data: polygons, and lines with a width, drawn in the order of a mapping."""

import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyogrio
import shapely
import yaml
from affine import Affine
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pyogrio.errors import DataLayerError, DataSourceError
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.features import rasterize
from rasterio.warp import transform as transform_points

from aerialdreams.data.georeference import GeoReference, unit_in_metres, utm_crs
from aerialdreams.data.grids import MAX_PIXELS
from aerialdreams.data.land_cover import IGNORED, LandCoverClass
from aerialdreams.data.mask_files import UserMask
from aerialdreams.errors import UserError

MAPPINGS = Path(__file__).parent / "mappings"
HSTORE = re.compile(r'"((?:[^"\\]|\\.)*)"=>"((?:[^"\\]|\\.)*)"')  # GDAL's column other_tags

Bounds = tuple[float, float, float, float]  # west, south, east, north


class Rule(BaseModel):
    """Which features become a class.

    Attributes:
        name: of the class (`class` in YAML).
        where: by attribute, the values that a feature must have one of, or "*" for any.
        width: of lines, metres; without it the rule is for polygons alone.
        layer: the layer that it is for; None for all.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(alias="class")
    where: dict[str, list[str | int] | Literal["*"]] = Field(min_length=1)
    width: float | None = Field(default=None, gt=0)
    layer: str | None = None


class Mapping(BaseModel):
    """How features become classes.

    Attributes:
        background: class of the ground that no rule covers; None for no class.
        sea: class of the ground to the right of lines with natural=coastline, which is where
            OpenStreetMap has the sea; None if the data have polygons of it.
        rules: in order: later ones are drawn over earlier ones.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    background: str | None = None
    sea: str | None = None
    rules: list[Rule] = Field(min_length=1)


def load_mapping(name: str) -> Mapping:
    """Read a mapping.

    Args:
        name: one that is shipped (osm or cosia), or the path of a YAML file.

    Raises:
        UserError: the file is missing, not YAML, or has unknown keys.
    """
    shipped = MAPPINGS / f"{name}.yaml"
    path = shipped if re.fullmatch(r"\w+", name) and shipped.exists() else Path(name)
    known = ", ".join(sorted(file.stem for file in MAPPINGS.glob("*.yaml")))
    try:
        return Mapping.model_validate(yaml.safe_load(path.read_text(encoding="utf-8-sig")))
    except OSError:
        raise UserError(
            f"--mapping: {name}: not found; name a YAML file, or one of {known}"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        raise UserError(f"{path}: {key}: {problem['msg']}") from None


def read_vector_mask(
    path: Path,
    mapping: Mapping,
    classes: Sequence[LandCoverClass],
    pixel_size: float,
    bounds: Bounds | None = None,
) -> UserMask:
    """Draw a mask of vector data in any format of GDAL, such as GeoPackage or .osm.pbf.

    Data in degrees are drawn in the UTM zone of their centre.

    Args:
        path: the file.
        mapping: which features become which class.
        classes: the class table.
        pixel_size: of the mask, metres.
        bounds: of the mask, in the data's CRS; None for the data's own.

    Raises:
        UserError: the file cannot be read, has no CRS, no bounds or none of the features; or the
            mapping names an unknown class.
    """
    ids = {row.name: row.id for row in classes}
    names = {rule.name for rule in mapping.rules} | {mapping.background, mapping.sea} - {None}
    unknown = {str(name) for name in names} - set(ids)
    if unknown:
        raise UserError(
            f"--mapping: {', '.join(sorted(unknown))}: no class of the model; it has"
            f" {', '.join(ids)}"
        )
    if bounds and not (bounds[0] < bounds[2] and bounds[1] < bounds[3]):
        raise UserError(f"--bounds: {bounds}: must be west < east and south < north")
    layers = _layers(path)
    source = _crs_of(path, layers)
    area = bounds or _bounds_of(path, layers)
    target = _metric_crs(source, area)
    west, south, east, north = _warped_bounds(area, source, target)
    size = pixel_size / unit_in_metres(target)
    width, height = (max(1, round(side / size)) for side in (east - west, north - south))
    if width * height > MAX_PIXELS:
        raise UserError(
            f"{path}: would be {width} x {height} pixels of {pixel_size:g} m; name a smaller area"
            " with --bounds"
        )
    transform = Affine(size, 0, west, 0, -size, north)
    ids_drawn = np.full((height, width), ids.get(mapping.background or "", IGNORED), np.uint8)
    features = [
        (layer, geometry, attributes)
        for layer in layers
        for geometry, attributes in _features(path, layer, area, source, target)
    ]
    drawn = 0
    if mapping.sea:
        coast = [shape for _, shape, tags in features if tags.get("natural") == "coastline"]
        sea = _right_of(coast, shapely.box(west, south, east, north))
        if sea:
            drawn += len(coast)
            rasterize(
                [(face, ids[mapping.sea]) for face in sea], out=ids_drawn, transform=transform
            )
    for rule in mapping.rules:
        shapes = [
            shape
            for layer, geometry, attributes in features
            if rule.layer in (None, layer) and _matches(rule, attributes)
            for shape in [_shape(geometry, rule, size / pixel_size)]
            if not shape.is_empty
        ]
        if shapes:
            drawn += len(shapes)
            rasterize(
                [(shape, ids[rule.name]) for shape in shapes],
                out=ids_drawn,
                transform=transform,
            )
    if not drawn:
        raise UserError(
            f"{path}: none of its {len(features)} features there match a rule of the mapping"
        )
    valid = ids_drawn != IGNORED
    notes = (f"{drawn} of its features drawn, {width} x {height} pixels of {pixel_size:g} m",)
    return UserMask(ids_drawn, valid, GeoReference(transform, target), 0.0, notes)


def _right_of(lines: Sequence[Any], area: Any) -> list[Any]:
    """The parts of an area that lie to the right of lines, as polygons.

    A part that lines do not separate from the ground on their left, as where an extract ends, goes
    to the side with more of their segments.
    """
    if not lines:
        return []
    faces = shapely.polygonize(
        [shapely.unary_union([area.boundary, *(line.intersection(area) for line in lines)])]
    ).geoms
    tree, votes = shapely.STRtree(list(faces)), np.zeros(len(faces), int)
    for line in lines:
        for part in shapely.get_parts(line):
            points = np.asarray(part.coords)
            middles, steps = (points[1:] + points[:-1]) / 2, np.diff(points, axis=0)
            aside = np.stack([steps[:, 1], -steps[:, 0]], 1)
            aside /= np.maximum(np.linalg.norm(aside, axis=1, keepdims=True), 1e-9) * 10
            for sign in (1, -1):
                _, hit = tree.query(shapely.points(middles + sign * aside), "within")
                np.add.at(votes, hit, sign)
    return [face for face, vote in zip(faces, votes, strict=True) if vote > 0]


def _layers(path: Path) -> list[str]:
    """Names of the layers that have geometries."""
    try:
        return [str(name) for name, kind in pyogrio.list_layers(path) if kind is not None]
    except (DataSourceError, DataLayerError) as error:
        problem = "not found" if not path.exists() else f"cannot be read ({error})"
        raise UserError(f"{path}: {problem}") from None


def _crs_of(path: Path, layers: Sequence[str]) -> CRS:
    """The CRS that all layers have."""
    found = {pyogrio.read_info(path, layer=layer)["crs"] for layer in layers}
    if None in found or not found:
        raise UserError(f"{path}: has no CRS; assign one, such as `ogr2ogr -a_srs EPSG:2154`")
    if len(found) > 1:
        raise UserError(f"{path}: its layers have several CRS ({', '.join(sorted(found))})")
    try:
        return CRS.from_user_input(found.pop())
    except CRSError as error:
        raise UserError(f"{path}: its CRS is unknown ({error})") from None


def _bounds_of(path: Path, layers: Sequence[str]) -> Bounds:
    """The bounds of all layers, in their CRS."""
    found = [pyogrio.read_info(path, layer=layer)["total_bounds"] for layer in layers]
    bounds = np.array([one for one in found if one is not None and np.isfinite(one).all()])
    if not len(bounds):
        raise UserError(f"{path}: does not say what area it covers; name one with --bounds")
    west, south = bounds[:, :2].min(0).tolist()
    east, north = bounds[:, 2:].max(0).tolist()
    return west, south, east, north


def _metric_crs(crs: CRS, area: Bounds) -> CRS:
    """The CRS itself, or for degrees the UTM zone of the area's centre."""
    if crs.is_projected:
        return crs
    return utm_crs(crs, (area[0] + area[2]) / 2, (area[1] + area[3]) / 2)


def _warped_bounds(area: Bounds, source: CRS, target: CRS) -> Bounds:
    if source == target:
        return area
    west, south, east, north = area
    xs, ys = transform_points(
        source, target, [west, east, west, east], [south, south, north, north]
    )
    return min(xs), min(ys), max(xs), max(ys)


def _features(
    path: Path, layer: str, area: Bounds, source: CRS, target: CRS
) -> Iterator[tuple[Any, dict[str, str]]]:
    """Geometries in the target CRS, with their attributes as text."""
    with warnings.catch_warnings():  # about rings that are not closed, which are drawn as they are
        warnings.simplefilter("ignore", RuntimeWarning)
        meta, _, geometries, columns = pyogrio.raw.read(path, layer=layer, bbox=tuple(area))
    for number, geometry in enumerate(shapely.from_wkb(geometries)):
        if geometry is None or geometry.is_empty:
            continue
        attributes = {
            str(name): str(column[number])
            for name, column in zip(meta["fields"], columns, strict=True)
            if column[number] is not None
        }
        attributes |= dict(HSTORE.findall(attributes.pop("other_tags", "")))
        yield warp_geometries(geometry, source, target), attributes


def warp_geometries(geometries: Any, source: CRS, target: CRS) -> Any:
    """A geometry of shapely, or an array of them, in another CRS."""
    if source == target:
        return geometries
    return shapely.transform(
        geometries,
        lambda points: np.array(transform_points(source, target, points[:, 0], points[:, 1])).T,
    )


def _matches(rule: Rule, attributes: dict[str, str]) -> bool:
    """Whether a feature has one of the values of one of a rule's attributes."""
    return any(
        key in attributes and (values == "*" or attributes[key] in map(str, values))
        for key, values in rule.where.items()
    )


def _shape(geometry: Any, rule: Rule, units_per_metre: float) -> Any:
    """What a rule draws of a feature: polygons, or lines with its width; empty for others."""
    is_line = geometry.geom_type in ("LineString", "MultiLineString", "LinearRing")
    if is_line and rule.width:
        return geometry.buffer(rule.width * units_per_metre / 2, cap_style="flat")
    if not is_line and not rule.width and geometry.area > 0:
        return geometry
    return shapely.Polygon()
