"""Applies settings, small YAML files of params that belong together, to params.yaml."""

import io
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML

from aerialdreams.errors import UserError
from aerialdreams.params import check_params, flat, read_yaml
from aerialdreams.util.files import atomic_file

PARAMS = Path("params.yaml")
SETTINGS = Path("settings")
DEFAULTS = SETTINGS / "default.yaml"  # the params of the default run


def available_settings() -> list[str]:
    """Names of the files in settings/."""
    return sorted(path.stem for path in SETTINGS.glob("*.yaml"))


def apply_settings(names: list[str]) -> list[str]:
    """Apply settings to params.yaml in the given order. Comments and other values are kept.

    Args:
        names: of files in settings/; if two set the same key, the later one wins.

    Returns:
        One line for each changed key: `key: before -> after`.

    Raises:
        UserError: a file does not exist, it has a key that params.yaml lacks, or the resulting
            params are invalid; params.yaml is unchanged.
    """
    editor = YAML()  # keeps comments
    editor.preserve_quotes = True
    editor.width = 1000
    editor.indent(mapping=2, sequence=4, offset=2)
    before = flat(read_yaml(PARAMS))
    params = editor.load(PARAMS)
    for name in names:
        path = SETTINGS / f"{name}.yaml"
        if not path.is_file():
            raise UserError(f"{path}: not found; available: {', '.join(available_settings())}")
        _merge(params, read_yaml(path), path, "")
    text = io.StringIO()
    editor.dump(params, text)
    values = yaml.safe_load(text.getvalue())
    check_params(values, PARAMS)
    after = flat(values)
    with atomic_file(PARAMS) as partial:
        partial.write_text(text.getvalue(), encoding="utf-8")
    return [f"{key}: {before[key]} -> {after[key]}" for key in after if before[key] != after[key]]


def _merge(params: Any, changes: dict[str, Any], path: Path, prefix: str) -> None:
    """Write the changes into the params. `path` and `prefix` are for error messages."""
    for key, value in changes.items():
        if key not in params:
            raise UserError(f"{path}: {prefix}{key}: unknown key; params.yaml does not have it")
        if isinstance(value, dict) and isinstance(params[key], dict):
            _merge(params[key], value, path, f"{prefix}{key}.")
        elif isinstance(value, list):  # changed in place, which keeps its style
            params[key][:] = value
        else:
            params[key] = value
