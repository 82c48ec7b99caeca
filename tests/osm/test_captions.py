"""captions: exact sentences for real patches' classes, names in several scripts, empty fields."""

import csv
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from aerialdreams.errors import UserError
from aerialdreams.params import Params
from aerialdreams.paths import CAPTIONS
from aerialdreams.util.tables import read_table
from stages import captions, class_percentages, osm_metadata
from tests.conftest import changed
from tests.osm.test_osm_metadata import recorded_patches, with_extract, write_index

PLACE = {
    "road": "Rue Molière",
    "quartier": None,
    "commune": "La Roche-sur-Yon",
    "arrondissement": "La Roche-sur-Yon",
    "departement": "Vendée",
    "region": "Pays de la Loire",
    "metropole": "France métropolitaine",
    "postcode": "85000",
    "country": "France",
    "place": "Le Bourg",
    "features": [("amenity=school", 1), ("landuse=grass", 4), ("natural=tree_row", 4)],
    "waterways": ["L'Yon"],
}
NOTHING: dict[str, Any] = {"features": [], "waterways": []}
PATCH = {"patch_id": "076201", "split": "test", "date": "2019-09-02"}


def caption_of(
    params: Params, shares: dict[str, float], osm: dict[str, Any], *sentences: str, **more: Any
) -> str:
    """A patch's caption with the default params, or with other templates and params."""
    templates = {"templates": [list(sentences)]} if sentences else {}
    stage = changed(params, captions=templates | more).captions
    return captions.fill(stage.templates[0], captions.caption_fields(PATCH, shares, osm, stage))


def published_shares(shared: Path, number: str, params: Params) -> dict[str, float]:
    """Class shares of a real patch, in the order of the class ids."""
    text = (shared / f"validation/MSK_{number}_seg.json").read_text()
    shares = json.loads(text)["class_repartition"]
    return {c.name: shares.get(c.name, 0.0) for c in params.classes}


def test_real_patch(shared: Path, params: Params) -> None:
    shares = published_shares(shared, "076201", params)
    assert caption_of(params, shares, PLACE) == (
        "Aerial view of Rue Molière, La Roche-sur-Yon, Vendée, Pays de la Loire, France. building,"
        " impervious surface, herbaceous vegetation, deciduous."
    )
    assert caption_of(params, shares, PLACE, amounts="numbers", most_classes=2).endswith(
        "France. building 48%, impervious surface 35%."
    )
    assert caption_of(params, shares, PLACE, amounts="words").endswith(
        "half building, much impervious surface, some herbaceous vegetation, a little deciduous."
    )


def test_form_of_the_first_aerialdreams(shared: Path, params: Params) -> None:
    """The same place, which it took from Nominatim, and the same classes, but sorted by area."""
    for number in ("066278", "067998", "076201"):
        check_form(shared, params, number)


def check_form(shared: Path, params: Params, number: str) -> None:
    original = json.loads((shared / f"validation/MSK_{number}.json").read_text())
    address = original["address"]
    osm = NOTHING | {
        "road": address.get("road"),
        "commune": address.get("village") or address.get("town") or address.get("city"),
        "arrondissement": address["municipality"],
        "departement": address["county"],
        "region": address["state"],
        "metropole": address["region"],
        "postcode": address["postcode"],
        "country": address["country"],
    }
    levels = ["road", "commune", "arrondissement", "departement", "region", "metropole"]
    caption = caption_of(
        params,
        published_shares(shared, number, params),
        osm,
        place=[*levels, "postcode", "country"],
        floor_percent=0,
    )
    form = re.fullmatch(r"Aerial view of (.+?)\. ([^.]+)\.", caption)
    assert form is not None
    classes = json.loads((shared / f"validation/MSK_{number}_seg.json").read_text())
    assert set(form[2].split(", ")) == set(classes["class_repartition"])
    # Nominatim's house number and quarters have no counterpart in the metadata.
    expected = original["display_name"].replace("31, ", "").replace("Sacré Cœur, Pyramides, ", "")
    assert form[1] == expected


def test_names_in_several_scripts(params: Params) -> None:
    names = {
        "road": 'Impasse "Le Chat d\'Oc"',
        "commune": "東京都",
        "departement": "الجزائر",
        "region": "Le\u0301ge",
        "country": "Lége",
    }
    assert caption_of(params, {"water": 1.0}, NOTHING | names) == (
        'Aerial view of Impasse "Le Chat d\'Oc", 東京都, الجزائر, Lége, Lége. water.'
    )


def test_no_osm_data_and_no_class_above_the_floor(params: Params) -> None:
    assert (
        caption_of(params, {"building": 0.0, "water": 1.0}, NOTHING)
        == "Aerial view of France. water."
    )
    few = {"water": 0.004, "snow": 0.005}
    assert caption_of(params, few, NOTHING) == "Aerial view of France. snow."


def test_classes_of_equal_area_are_in_order_of_id(params: Params) -> None:
    shares = {c.name: 1 / 12 if number < 12 else 0.0 for number, c in enumerate(params.classes)}
    expected = ", ".join(c.name for c in params.classes[:12])
    assert caption_of(params, shares, NOTHING) == f"Aerial view of France. {expected}."


def test_sentence_with_an_empty_field_is_left_out(params: Params) -> None:
    sentences = [
        "{classes} near {commune}.",
        "In {season}, {month}, on {date}.",
        "With {features}.",
    ]
    shares = {"water": 1.0}
    assert caption_of(params, shares, PLACE, *sentences) == (
        "water near La Roche-sur-Yon. In autumn, September 2019, on 2019-09-02."
        " With L'Yon, grass, tree row."
    )
    assert (
        caption_of(params, shares, NOTHING, *sentences)
        == "In autumn, September 2019, on 2019-09-02."
    )
    near = caption_of(params, shares, PLACE, "Near {nearest_place}.")
    assert near == "Near Le Bourg."
    wide = caption_of(
        params, shares, PLACE, "{place}.", place=["arrondissement", "commune", "country"]
    )
    assert wide == "La Roche-sur-Yon, France."


def test_variants_are_uniform_and_reproducible(params: Params) -> None:
    variants = [captions.variant_index(5, f"{number:06}", 3) for number in range(3000)]
    assert all(900 < count < 1100 for count in Counter(variants).values())
    assert variants == [captions.variant_index(5, f"{number:06}", 3) for number in range(3000)]
    assert variants != [captions.variant_index(6, f"{number:06}", 3) for number in range(3000)]


@pytest.fixture
def located(workdir: Path, params: Params) -> Params:
    """Params of the sample data, after the stages before captions, with patches of all splits."""
    stage_params = with_extract(params)
    patches = [p for p in recorded_patches() if p[0][2:] in ("0505", "0909", "0000")]
    write_index(patches, splits=True)
    osm_metadata.main(stage_params)
    class_percentages.main(stage_params)
    return stage_params


def test_stage_on_sample_data(located: Params) -> None:
    two = changed(located, captions={"templates": [["{place}."], ["In {commune}.", "{classes}."]]})
    summary = captions.main(two)
    assert summary.startswith("12 captions, ")
    assert "at least 0 exceed CLIP's 77 tokens" in summary
    rows = read_table(CAPTIONS).set_index("patch_id")
    assert rows.loc["000505", "variants"].tolist() == [
        "Rue 3 (two-communes), Valbrune, Alpes-du-Large, Rivage-et-Alpes, France.",
        "In Valbrune. building.",
    ]
    table = list(csv.DictReader(captions.CAPTIONS_TABLE.open(encoding="utf-8")))
    assert [row["patch_id"] for row in table] == rows.index.tolist()
    for row in table:
        first, second = rows.loc[row["patch_id"], "variants"]
        assert row["caption"] == rows.loc[row["patch_id"], "caption"]
        assert row["caption"] in ((first, second) if row["split"] == "train" else (first,))
    page = captions.ZONES_PAGE.read_text(encoding="utf-8")
    assert "12 patches in 4 zones" in page and "OpenStreetMap contributors, ODbL 1.0" in page
    assert page.count("<rect ") == 12 and "Valbrune</li>" in page


def test_reports_captions_longer_than_77_tokens(located: Params) -> None:
    long = changed(located, captions={"templates": [["{place} " * 20 + "{classes}"]]})
    counted = re.search(r"at least (\d+) exceed", captions.main(long))
    assert counted is not None and int(counted[1]) == 9  # the others have short places: no OSM data


def test_tables_of_other_patches_are_rejected(located: Params) -> None:
    write_index(recorded_patches()[:5], splits=True)
    with pytest.raises(UserError, match=r"class_percentages\.parquet: its patches differ"):
        captions.main(located)
    Path("data/class_percentages.parquet").unlink()
    with pytest.raises(UserError, match=r"class_percentages\.parquet: not found; run `dvc repro`"):
        captions.main(located)
