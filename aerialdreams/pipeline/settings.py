"""Settings: small files of params that belong together, put into params.yaml by name."""

import io
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML

from aerialdreams.errors import UserError
from aerialdreams.params import check_params, flat
from aerialdreams.util.files import atomic_file

PARAMS = Path("params.yaml")


SETTINGS = Path("settings")


def names() -> list[str]:
    """The settings that there are."""
    return sorted(path.stem for path in SETTINGS.glob("*.yaml"))


def put(chosen: list[str]) -> list[str]:
    """Put settings into params.yaml, one after the other; its comments and all else stay.

    Args:
        chosen: names of files in settings/; where two have a key, the later one holds.

    Returns:
        What changed, a line for each key: `key: before -> after`.

    Raises:
        UserError: there are no such settings, they have a key that params.yaml lacks, or the
            params that come out are wrong; params.yaml is as it was.
    """
    editor = YAML()  # keeps comments
    editor.preserve_quotes = True
    editor.width = 1000
    editor.indent(mapping=2, sequence=4, offset=2)
    try:
        params = editor.load(PARAMS)
    except FileNotFoundError:
        raise UserError(f"{PARAMS}: not found; run from the project's root") from None
    before = flat(yaml.safe_load(PARAMS.read_text(encoding="utf-8")))
    for name in chosen:
        path = SETTINGS / f"{name}.yaml"
        if not path.is_file():
            raise UserError(f"{path}: not found; there are {', '.join(names())}")
        _merge(params, yaml.safe_load(path.read_text(encoding="utf-8")), path, "")
    text = io.StringIO()
    editor.dump(params, text)
    values = yaml.safe_load(text.getvalue())
    check_params(values, PARAMS)
    after = flat(values)
    with atomic_file(PARAMS) as partial:
        partial.write_text(text.getvalue(), encoding="utf-8")
    return [f"{key}: {before[key]} -> {after[key]}" for key in after if before[key] != after[key]]


def _merge(params: Any, changes: dict[str, Any], path: Path, above: str) -> None:
    for key, value in changes.items():
        if key not in params:
            raise UserError(f"{path}: {above}{key}: unknown key; params.yaml has none of that name")
        if isinstance(value, dict) and isinstance(params[key], dict):
            _merge(params[key], value, path, f"{above}{key}.")
        elif isinstance(value, list):  # in place, in the form that it has in params.yaml
            params[key][:] = value
        else:
            params[key] = value
