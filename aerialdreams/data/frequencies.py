"""Class frequencies of the train split, as class-percentages writes them."""

import csv
from pathlib import Path

from aerialdreams.errors import UserError
from aerialdreams.paths import FREQUENCIES


def read_train_percentages(class_names: list[str], path: Path = FREQUENCIES) -> list[float]:
    """Percent of the train split's pixels of each class, in the order of the class table.

    Args:
        class_names: of the class table.
        path: a CSV file with columns class and train.

    Raises:
        UserError: the file is missing or damaged, or has other classes.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [(row["class"], float(row["train"])) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); run `dvc repro class-percentages`"
        ) from None
    if [name for name, _ in rows] != class_names:
        raise UserError(
            f"{path}: has other classes than dataset_spec.classes; run `dvc repro"
            " class-percentages`"
        )
    return [percent for _, percent in rows]
