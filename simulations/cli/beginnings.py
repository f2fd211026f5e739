"""Writes what one begins with: a scenario of one's own, a Flower app with the defense in it."""

import json
import re
import shutil
from importlib.util import find_spec
from keyword import iskeyword
from pathlib import Path

from fl_defense.atomic_write import replace_file
from simulations import shipped
from simulations.scenario import ConfigError
from simulations.scenario.load import find_scenario, load_scenario, scenario_schema

TEMPLATE = "drop_in"
"""Name of the shipped app's package, which becomes the new one's."""


def write_scenario(folder: Path, scenario: str) -> Path:
    """Write `scenario.yaml`, with its comments, and the schema beside it; return its path.

    The scenario is called like the folder.

    Raises:
        ConfigError: if `scenario` is unknown or wrong, the folder holds one, or cannot be written.
    """
    given = find_scenario(scenario)
    load_scenario(given, trust_imports=False)
    path = folder / "scenario.yaml"
    if path.exists():
        raise ConfigError([f"{path}: is there already; name another folder"])
    name = re.sub(r"[^\w-]+", "-", folder.resolve().name).strip("-") or "scenario"
    text = given.read_text(encoding="utf-8")
    text = re.sub(r"\$schema=\S+", "$schema=scenario.schema.json", text, count=1)
    text = re.sub(r"^name: .*$", f"name: {json.dumps(name)}", text, count=1, flags=re.MULTILINE)
    schema = json.dumps(scenario_schema(), indent=2) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / "scenario.schema.json", schema.encode())
        replace_file(path, text.encode())
    except OSError as error:
        raise _cannot_write(folder, error) from error
    load_scenario(path, trust_imports=False)
    return path


def write_app(folder: Path) -> str:
    """Write a stock Flower app whose server is defended; return the name of its package.

    Raises:
        ConfigError: if the folder exists, or cannot be written, or its name makes no package's.
    """
    if folder.exists():
        raise ConfigError([f"{folder}: is there already; name a folder that is not"])
    package = re.sub(r"\W+", "_", folder.resolve().name.lower())
    if not package.isidentifier() or iskeyword(package) or find_spec(package) is not None:
        raise ConfigError(
            [
                f"{folder}: names the app's package, which must be a name of Python's and not one "
                f"that is installed, got {package!r}; name another folder"
            ]
        )
    names = {TEMPLATE: package, TEMPLATE.replace("_", "-"): package.replace("_", "-")}
    try:
        shutil.copytree(shipped.APP, folder, ignore=_all_but_sources)
        (folder / TEMPLATE).rename(folder / package)
        for path in filter(Path.is_file, folder.rglob("*")):
            text = path.read_text(encoding="utf-8").replace(f"examples/{TEMPLATE}", folder.name)
            for old, new in names.items():
                text = text.replace(old, new)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _cannot_write(folder, error) from error
    return package


def _all_but_sources(folder: str, names: list[str]) -> list[str]:
    """Return what a copy leaves out: whatever running the app left there."""
    wanted = {".py", ".toml", ".md"}
    return [name for name in names if name == "__pycache__"
            or not (Path(name).suffix in wanted or (Path(folder) / name).is_dir())]  # fmt: skip


def _cannot_write(folder: Path, error: OSError) -> ConfigError:
    return ConfigError([f"{folder}: cannot be written ({error.strerror}); name another folder"])
