from __future__ import annotations

import ast
import importlib
import json
import pkgutil
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import llmpq_jax

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
    "project"
]
HEAVY = {"jax", "jaxlib", "flax", "transformers", "pyomo", "highspy"}


def all_packages() -> list[str]:
    found = pkgutil.walk_packages(llmpq_jax.__path__, "llmpq_jax.")
    return ["llmpq_jax", *(module.name for module in found if module.ispkg)]


def exported(package: str) -> list[str]:
    return list(getattr(importlib.import_module(package), "__all__", ()))


def heavy_modules_after(code: str) -> set[str]:
    """Runs code in a fresh Python and returns which heavy libraries it imported."""
    script = f"{code}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return HEAVY & set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("package", all_packages())
def test_exported_names_are_sorted_unique_and_there(package):
    names = exported(package)
    assert names == sorted(set(names))
    module = importlib.import_module(package)
    assert [name for name in names if not hasattr(module, name)] == []


@pytest.mark.parametrize("package", all_packages())
def test_what_a_package_takes_from_its_modules_only_to_offer_it_is_exported(package):
    source = importlib.import_module(package).__file__
    assert source is not None
    tree = ast.parse(Path(source).read_text(encoding="utf-8"))
    gathered = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(package)
        for alias in node.names
    }
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    offered = {name for name in gathered - used if not name.startswith("_")}
    assert offered <= set(exported(package))


def test_a_name_that_a_package_does_not_have_is_an_attribute_error():
    for package in all_packages():
        with pytest.raises(AttributeError, match="no_such_name"):
            _ = importlib.import_module(package).no_such_name


def test_importing_the_package_costs_neither_jax_nor_pyomo():
    assert heavy_modules_after("import llmpq_jax") == set()


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["profile", "--help"], ["solve", "--help"], ["generate", "--help"]],
    ids=" ".join,
)
def test_help_costs_neither_jax_nor_pyomo(arguments):
    code = f"from llmpq_jax.cli import main; main({arguments}, standalone_mode=False)"
    assert heavy_modules_after(code) == set()


def test_planning_imports_no_jax():
    assert "jax" not in heavy_modules_after("from llmpq_jax.planner import plan")


def test_running_imports_no_pyomo():
    found = heavy_modules_after("from llmpq_jax.runtime import Pipeline")
    assert "jax" in found
    assert not {"pyomo", "highspy"} & found


def test_the_program_says_its_version():
    command = [sys.executable, "-m", "llmpq_jax", "--version"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert llmpq_jax.__version__ in done.stdout


@pytest.mark.parametrize(
    ("page", "pattern"),
    [
        ("CHANGELOG.md", r"^## \[([^\]]+)\] - (?:Unreleased|\d{4}-\d\d-\d\d)$"),
        ("CITATION.cff", r"^version: (\S+)$"),
    ],
)
def test_the_version_is_the_same_everywhere(page, pattern):
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.search(pattern, text, flags=re.MULTILINE)
    assert found is not None
    assert found.group(1) == llmpq_jax.__version__


@cache
def declared(*extras: str) -> dict[str, Requirement]:
    texts = [*PROJECT["dependencies"]]
    for extra in extras:
        texts += PROJECT["optional-dependencies"][extra]
    requirements = map(Requirement, texts)
    return {canonicalize_name(each.name): each for each in requirements}


def test_everything_imported_is_declared():
    homes = packages_distributions()
    imported: dict[str, Path] = {}
    for path in ROOT.glob("llmpq_jax/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            imported |= {name.partition(".")[0]: path for name in names}
    # Its version is pydantic's to choose.
    imported.pop("pydantic_core", None)
    others = set(imported) - set(sys.stdlib_module_names) - {"llmpq_jax"}
    undeclared = {
        name: str(imported[name])
        for name in others
        if not {canonicalize_name(home) for home in homes[name]}
        & set(declared("ray", "serve", "structured"))
    }
    assert undeclared == {}


def test_constraints_hold_names_and_versions_that_the_project_accepts():
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert lines == sorted(lines)
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9a-z.]+", line) for line in lines)
    pinned = dict(line.split("==") for line in lines)
    for name, requirement in declared("test", "lint").items():
        assert pinned[name] in requirement.specifier, name


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "llmpq_jax/py.typed").exists()


# Where JSON is digested or only looked at, or is another program's config.
UNCHECKED_JSON = {
    "arch/fingerprint.py",
    "batch/manifest.py",
    "batch/prompt_line.py",
    "checkpoint/weights_file.py",
    "checkpoint/writer.py",
}


def test_json_is_written_without_numbers_that_it_does_not_have():
    unchecked = set()
    for path in sorted((ROOT / "llmpq_jax").glob("**/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node) == "json.dump":
                unchecked.add(str(path))
            if isinstance(node, ast.Call) and "json.dumps" in ast.unparse(node)[:30]:
                keywords = {word.arg for word in node.keywords}
                if "allow_nan" not in keywords:
                    unchecked.add(str(path.relative_to(ROOT / "llmpq_jax")))
    assert unchecked == UNCHECKED_JSON
