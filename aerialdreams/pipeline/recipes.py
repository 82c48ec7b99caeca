"""Groups of experiments with the same recipe: params that differ in their seeds alone."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from dvc.repo import Repo

from aerialdreams.errors import UserError
from aerialdreams.params import flat
from aerialdreams.pipeline.comparison import Group
from aerialdreams.pipeline.experiments import (
    RUN,
    WORKSPACE,
    load_experiment,
    read_revision,
)
from aerialdreams.pipeline.identity import SEED, recipe_of, without_seeds
from aerialdreams.pipeline.mlflow_store import RECIPE_TAG, connect

GROUP = re.compile(r"(?P<name>.+)@(?P<seeds>\d+(,\d+)*|all)$")


def load_group(name: str) -> Group:
    """Experiments by the name of one of them, and seeds.

    Args:
        name: an experiment, see `load_experiment`; `NAME@3,4,5`, the experiments with the recipe of
            NAME and these values of train_controlnet.seed, or `NAME@all`; or `LABEL=A,B,C`, the
            experiments A, B and C under a name of your own. In NAME@SEEDS, NAME is an experiment, a
            recipe as MLflow shows it, or the start of names such as base in base-1 and base-2.

    Raises:
        UserError: an experiment or a seed is missing, or the experiments' recipes differ.
    """
    label, is_list, members = name.partition("=")
    if is_list:
        group = Group(label, [load_experiment(member) for member in members.split(",")])
        _require_one_recipe(group)
        return group
    match = GROUP.fullmatch(name)
    if not match:
        return Group(name, [load_experiment(name)])
    known = dict(_known_experiments())
    recipe = _find_recipe(match["name"], known)
    by_seed: dict[str, str] = {}
    for experiment, params in known.items():
        if recipe_of(params) == recipe:
            by_seed.setdefault(str(params.get(SEED)), experiment)
    for seed, run in _runs_of_recipe(recipe):
        by_seed.setdefault(seed, run)
    wanted = sorted(by_seed, key=int) if match["seeds"] == "all" else match["seeds"].split(",")
    missing = [seed for seed in wanted if seed not in by_seed]
    if missing or not wanted:
        raise UserError(
            f"{name}: no experiment of recipe {recipe} has {SEED} {', '.join(missing) or 'at all'};"
            f" there are {', '.join(sorted(by_seed, key=int)) or 'none'}. `dvc exp run -S"
            f" {SEED}=N` makes one"
        )
    return Group(name, [load_experiment(by_seed[seed]) for seed in dict.fromkeys(wanted)])


def _require_one_recipe(group: Group) -> None:
    first = group.experiments[0]
    ours = without_seeds(first.params)
    for other in group.experiments[1:]:
        theirs = without_seeds(other.params)
        for key in ours | theirs:
            if ours.get(key) != theirs.get(key):
                raise UserError(
                    f"{group.name}: {first.name} and {other.name} differ in {key}"
                    f" ({ours.get(key)} and {theirs.get(key)}); a group's experiments differ in"
                    " seeds alone"
                )


def _find_recipe(name: str, known: Mapping[str, Mapping[str, Any]]) -> str:
    """The recipe that a name stands for."""
    for experiment, params in known.items():
        if experiment == name or re.fullmatch(re.escape(name) + r"-\d+", experiment):
            return recipe_of(params)
        if recipe_of(params) == name:
            return name
    if any(_runs_of_recipe(name)):
        return name
    return recipe_of(load_experiment(name).params)


def _known_experiments() -> Iterator[tuple[str, dict[str, Any]]]:
    """The workspace, HEAD and all experiments of `dvc exp`, with their params."""
    with Repo() as repo:
        found = repo.experiments.ls(all_commits=True)
    names = [entry[0] for entries in found.values() for entry in entries if entry[0]]
    for name in [*names, "HEAD", WORKSPACE]:
        yield name, flat(yaml.safe_load(read_revision(name)(Path("params.yaml"))))


def _runs_of_recipe(recipe: str) -> Iterator[tuple[str, str]]:
    """Seed and name of the finished trainings of a recipe in MLflow."""
    client, experiment_id = connect()
    query = f"tags.`{RECIPE_TAG}` = '{recipe}' and attributes.status = 'FINISHED'"
    for run in client.search_runs([experiment_id], query):
        if SEED in run.data.params:
            yield run.data.params[SEED], f"{RUN}{run.info.run_id}"
