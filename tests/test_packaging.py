"""The distribution owns its five import names, and a plain install needs none of the extras."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("screener", "engines", "calibration", "training", "bench")


@pytest.mark.parametrize("package", PACKAGES)
def test_no_other_distribution_provides_the_name(package: str) -> None:
    owners = importlib.metadata.packages_distributions().get(package, [])
    assert set(owners) <= {"screener"}


def test_the_base_install_needs_no_torch_dali_or_tensorrt() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    base = {re.split(r"[<>=\\[; ]", requirement)[0].lower() for requirement in project["dependencies"]}
    assert not {name for name in base if re.match(r"torch|tensorrt|nvidia|monai|onnxruntime", name)}


@pytest.mark.parametrize("package", ["screener", "engines", "calibration"])
def test_optional_packages_are_imported_on_use(package: str) -> None:
    """At module level only the modules that exist for them may import torch, DALI or TensorRT."""
    optional = {"torch", "tensorrt", "tensorrt_rtx", "nvidia", "cuda", "onnx", "onnxruntime", "altair"}
    allowed = re.compile(r"dali|nvimagecodec|torch|onnx|precision|quanti|page|epidemiology")
    for file in (ROOT / package).rglob("*.py"):
        if allowed.search(str(file.relative_to(ROOT))):
            continue
        for node in ast.parse(file.read_text("utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & optional, file.name


def test_every_shipped_file_is_in_the_wheel() -> None:
    """Package data that code opens by path is declared."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"][
        "package-data"
    ]
    for package in PACKAGES:
        folder = ROOT / package
        covered = {path for pattern in declared[package] for path in folder.glob(pattern)}
        data = {path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
        missing = {
            str(path.relative_to(ROOT)) for path in data - covered if path.suffix not in (".py", ".pyc")
        }
        assert not {name for name in missing if not name.startswith("bench/")}, missing
