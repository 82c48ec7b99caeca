"""report: samples, metrics, losses and provenance of the model on one page.

Reads   data/generated/, data/dataset/, data/agreement.parquet, data/patches.parquet,
        models/adapted_base/source.json, settings/default.yaml,
        metrics/{evaluation,confusion,utility}.json,
        metrics/{controlnet,controlnet_validation,class_frequencies}.csv
Writes  data/report.html: what was trained on what and how good it is, samples with a slider and
        filters, classes, confusion, losses, a map, changed params, credits; one self-contained file
        of less than 5 MB that prints well. The page is also attached to the MLflow run that trained
        the model.
"""

from aerialdreams.data.dataset import count_patches
from aerialdreams.data.frequencies import read_train_percentages
from aerialdreams.data.index import read_index
from aerialdreams.evaluation.spectra import TOLERANCE
from aerialdreams.generation.outputs import MANIFEST, evaluated_splits
from aerialdreams.params import Params, load_params
from aerialdreams.paths import (
    ADAPTED_BASE,
    AGREEMENT,
    CONFUSION,
    CONTROLNET_LOSSES,
    CONTROLNET_VALIDATION_LOSSES,
    EVALUATION,
    GENERATED,
    REPORT,
    UTILITY,
)
from aerialdreams.pipeline.adapted_base_card import adaptation_in_words
from aerialdreams.pipeline.html import page_script, render
from aerialdreams.pipeline.mlflow_store import runs_page
from aerialdreams.pipeline.report_bands import band_section
from aerialdreams.pipeline.report_page import (
    WAVELENGTHS,
    cards,
    changed_params,
    headline,
    provenance,
    read_curve,
    split_section,
    utility_by_class,
    utility_rows,
)
from aerialdreams.pipeline.report_samples import BUDGET, samples
from aerialdreams.pipeline.settings import DEFAULTS
from aerialdreams.pipeline.stage import run_stage
from aerialdreams.pipeline.tracking import log_evaluation
from aerialdreams.pipeline.zone_map import Map, zone_map
from aerialdreams.util.files import atomic_file, read_json
from aerialdreams.util.tables import read_table

CURVES = {
    "Training loss": CONTROLNET_LOSSES,
    "Validation loss": CONTROLNET_VALIDATION_LOSSES,
}


def main(params: Params) -> str:
    manifest = read_json(GENERATED / MANIFEST)
    evaluation, confusion = read_json(EVALUATION), read_json(CONFUSION)
    utility, agreement = read_json(UTILITY), read_table(AGREEMENT)
    names = evaluated_splits()
    figures = [
        sample
        for split in names
        for sample in samples(
            split, agreement, params.classes, params.image_size, BUDGET // len(names)
        )
    ]
    classes = legend(params)
    page = render(
        "report.html",
        title=headline(evaluation[names[0]]),
        model=model_facts(params),
        evaluated={name: evaluation[name]["generated"]["n"] for name in names},
        cards=cards({name: evaluation[name] for name in names}, utility),
        samples=figures,
        classes=classes,
        wavelengths=WAVELENGTHS,
        tolerance=TOLERANCE,
        splits=[
            split_section(name, evaluation[name], confusion[name]["generated"], params.classes)
            for name in names
        ],
        bands={name: band_section(name, evaluation[name], params.further_bands) for name in names},
        utility=utility_rows(utility),
        utility_by_class=utility_by_class(utility, {name: share for name, _, share in classes}),
        curves=[read_curve(title, path) for title, path in CURVES.items()],
        map=map_of_zones(),
        changed=changed_params(params, load_params(DEFAULTS)),
        provenance=provenance(manifest, params),
        credits=params.credits,
        **page_script("samples.js"),
    )
    with atomic_file(REPORT) as partial:
        partial.write_text(page, encoding="utf-8")
    run = log_evaluation(manifest["controlnet_md5"], {}, [REPORT])
    trainings = runs_page() if run else ""  # a store that is down is not waited for twice
    return f"{len(figures)} figures, {len(page) / 1e6:.1f} MB" + (
        f"; trainings: {trainings}" if trainings else ""
    )


def model_facts(params: Params) -> dict[str, str]:
    """What was trained on what, for the page's first paragraph."""
    origin = read_json(ADAPTED_BASE / "source.json")
    base = {
        "tiny": "a tiny Stable Diffusion trained from scratch",
        "hub": str(origin.get("id")),
        "folder": f"the Stable Diffusion in {params.base_model.input}",
    }[origin["source"]]
    name = params.dataset_spec.name
    invented = params.raw_patches.source == "sample"
    return {
        "base": base + adaptation_in_words(origin),
        "dataset": f"an invented sample in the format of {name}" if invented else name,
        "patches": f"{count_patches('train'):,}",
        "steps": f"{params.train_controlnet.steps:,}",
        "size": str(params.image_size),
    }


def legend(params: Params) -> list[tuple[str, str, str]]:
    """Name, colour and percent of the train split's pixels of each class."""
    percentages = read_train_percentages([land_cover.name for land_cover in params.classes])
    return [
        (land_cover.name, land_cover.colour, f"{percent:.1f} %")
        for land_cover, percent in zip(params.classes, percentages, strict=True)
    ]


def map_of_zones() -> Map | None:
    """Where the patches lie."""
    index = read_index(["group", "zone", "split", "longitude", "latitude"])
    groups = index.groupby(["group", "zone"], sort=False, dropna=False)
    return zone_map({f"{group}-{zone}": rows for (group, zone), rows in groups})


if __name__ == "__main__":
    run_stage("report", __doc__, main)
