"""Imports match the dependencies of pyproject.toml, and libraries of extras are used only where
allowed.
"""

import ast
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
EXTRA_FOLDERS = {
    "cluster": "speakeasyd/cluster",
    "server": "speakeasyd/server",
    "record": "speakeasyd/recorder",
    "notify": "speakeasyd/notify",
}
LOADED_BY_OTHERS = {"websockets"}  # loaded by uvicorn
OWN_PACKAGES = {"speakeasyd", "tests", "benchmarks", "tools"}
DISTRIBUTIONS = packages_distributions()


def parse_requirements(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in requirements}


CORE = parse_requirements(PROJECT["dependencies"])
EXTRAS = {
    name: parse_requirements(lines) for name, lines in PROJECT["optional-dependencies"].items()
}


def imported_modules(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module
            case ast.Call(
                func=ast.Name(id="import_module")
                | ast.Attribute(attr="import_module" | "importorskip"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                yield module


def needed_distributions(file: Path) -> set[str]:
    """Return the distributions that a source file imports, by their names in the index."""
    tops = {module.partition(".")[0] for module in imported_modules(file)}
    foreign = tops - OWN_PACKAGES - set(sys.stdlib_module_names)
    return {canonicalize_name(DISTRIBUTIONS.get(top, [top])[0]) for top in foreign}


def list_sources(*folders: str) -> list[Path]:
    return [file for folder in folders for file in sorted((REPOSITORY / folder).rglob("*.py"))]


def list_allowed_distributions(file: Path) -> set[str]:
    path = file.relative_to(REPOSITORY).as_posix()
    extras = [
        EXTRAS[extra] for extra, folder in EXTRA_FOLDERS.items() if path.startswith(f"{folder}/")
    ]
    return CORE.union(*extras)


def test_the_package_imports_what_is_declared_for_it() -> None:
    undeclared = {
        f"{file.relative_to(REPOSITORY)}: {name}"
        for file in list_sources("speakeasyd", "migrations")
        for name in needed_distributions(file) - list_allowed_distributions(file)
    }
    assert not undeclared


def test_tests_and_benchmarks_import_what_is_declared() -> None:
    everything = CORE.union(*EXTRAS.values())
    undeclared = {
        f"{file.relative_to(REPOSITORY)}: {name}"
        for file in list_sources("tests", "benchmarks", "docs")
        for name in needed_distributions(file) - everything
    }
    assert not undeclared


@pytest.mark.parametrize("group", ["dependencies", *EXTRA_FOLDERS])
def test_every_declared_dependency_is_imported(group: str) -> None:
    names = CORE if group == "dependencies" else EXTRAS[group]
    used = {
        name
        for file in list_sources("speakeasyd", "migrations")
        for name in needed_distributions(file)
    }
    assert names - used <= LOADED_BY_OTHERS


def test_every_dependency_has_an_upper_bound() -> None:
    groups = [
        PROJECT["dependencies"],
        *(PROJECT["optional-dependencies"][extra] for extra in ("gpu", *EXTRA_FOLDERS)),
    ]
    requirements = [Requirement(line) for group in groups for line in group]
    operators = {
        item.name: {specifier.operator for specifier in item.specifier} for item in requirements
    }
    assert {name for name, found in operators.items() if not {">=", "<"} <= found} == set()
