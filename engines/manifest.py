"""The manifest of a model bundle: what `manifest.json` must say, read strictly.

Anything missing, misspelt or of the wrong type is an error that names the key. File names are plain names: a
manifest can therefore never make the reader open a file outside the bundle.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from engines.errors import BundleError
from engines.tensor_spec import TensorSpec

MANIFEST_FORMAT = "screener-bundle/1"
"""Changes when an older reader could misread a newer bundle."""

GRAPHS = ("segmentation", "classification")
"""The graphs of every bundle, in the order they run."""

T = TypeVar("T")

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a bundle."""

    file: str
    """Plain file name inside the bundle."""
    sha256: str
    """Hexadecimal digest of the whole file."""


@dataclass(frozen=True, slots=True)
class GraphEntry:
    """One network of a bundle."""

    file: FileEntry
    """ONNX in float32."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    int8: FileEntry | None = None
    """Ranges to run it in int8 (`engines.int8_ranges`), where that was found good enough."""


@dataclass(frozen=True, slots=True)
class Labels:
    """Class names of the task heads, in the order of their logits."""

    diagnosis: tuple[str, ...]
    stage: tuple[str, ...]
    zones: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything `manifest.json` says."""

    name: str
    version: str
    canvas_version: str
    canvas_side: int
    """Side of the square canvas, in canvas pixels."""
    graphs: Mapping[str, GraphEntry]
    """Keys: `GRAPHS`."""
    labels: Labels
    mask_convention: str
    """Order of the mask planes, for example `patient_right_then_left`."""
    calibration: FileEntry
    model_card: FileEntry
    licences: tuple[str, ...]
    intended_use: str

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """Every file the bundle must hold beside the manifest."""
        graphs = tuple(entry for graph in self.graphs.values() for entry in (graph.file, graph.int8) if entry)
        return (*graphs, self.calibration, self.model_card)

    def to_json(self) -> str:
        """The text of `manifest.json`."""
        graphs = {
            name: {
                **_file_json(graph.file),
                "inputs": [_spec_json(spec) for spec in graph.inputs],
                "outputs": [_spec_json(spec) for spec in graph.outputs],
                **({"int8": _file_json(graph.int8)} if graph.int8 else {}),
            }
            for name, graph in self.graphs.items()
        }
        manifest = {
            "format": MANIFEST_FORMAT,
            "name": self.name,
            "version": self.version,
            "canvas": {"version": self.canvas_version, "side": self.canvas_side},
            "graphs": graphs,
            "labels": {
                "diagnosis": self.labels.diagnosis,
                "stage": self.labels.stage,
                "zones": self.labels.zones,
            },
            "mask_convention": self.mask_convention,
            "calibration": _file_json(self.calibration),
            "model_card": _file_json(self.model_card),
            "licences": self.licences,
            "intended_use": self.intended_use,
        }
        return json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"


def parse_manifest(text: bytes) -> Manifest:
    """Read `manifest.json`.

    Raises:
        BundleError: not JSON, another format, or a key that is missing, of the wrong type or unsafe.
    """
    try:
        root = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"manifest.json is not JSON ({error}); build the bundle again") from error
    if not isinstance(root, dict) or root.get("format") != MANIFEST_FORMAT:
        found = root.get("format") if isinstance(root, dict) else type(root).__name__
        raise BundleError(
            f"manifest.json has format {found!r}; expected {MANIFEST_FORMAT!r}: "
            "use the release of screener that the bundle was made with, or build the bundle again"
        )
    canvas, labels, graphs = (_typed(root, key, dict) for key in ("canvas", "labels", "graphs"))
    if set(graphs) != set(GRAPHS):
        raise BundleError(f"manifest.json graphs are {sorted(graphs)}; expected {sorted(GRAPHS)}")
    return Manifest(
        name=_typed(root, "name", str),
        version=_typed(root, "version", str),
        canvas_version=_typed(canvas, "version", str),
        canvas_side=_typed(canvas, "side", int),
        graphs={name: _graph(_typed(graphs, name, dict)) for name in GRAPHS},
        labels=Labels(
            _names(labels, "diagnosis"), stage=_names(labels, "stage"), zones=_names(labels, "zones")
        ),
        mask_convention=_typed(root, "mask_convention", str),
        calibration=_file(_typed(root, "calibration", dict)),
        model_card=_file(_typed(root, "model_card", dict)),
        licences=_names(root, "licences"),
        intended_use=_typed(root, "intended_use", str),
    )


def _typed(mapping: Mapping[str, Any], key: str, kind: type[T]) -> T:
    value = mapping.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        found = "nothing" if value is None else type(value).__name__
        raise BundleError(f"manifest.json key {key!r}: found {found}, expected {kind.__name__}")
    return value


def _names(mapping: Mapping[str, Any], key: str) -> tuple[str, ...]:
    names = _typed(mapping, key, list)
    if not names or not all(isinstance(name, str) for name in names):
        raise BundleError(f"manifest.json key {key!r}: expected a list of names")
    return tuple(names)


def _file(mapping: Mapping[str, Any]) -> FileEntry:
    name, sha256 = _typed(mapping, "file", str), _typed(mapping, "sha256", str)
    if not _PLAIN_NAME.fullmatch(name) or name == "manifest.json":
        raise BundleError(
            f"manifest.json names the file {name!r}; expected a plain file name inside the bundle"
        )
    if not _SHA256.fullmatch(sha256):
        raise BundleError(f"manifest.json: sha256 of {name} is not 64 lower-case hexadecimal digits")
    return FileEntry(name, sha256)


def _graph(mapping: Mapping[str, Any]) -> GraphEntry:
    return GraphEntry(
        file=_file(mapping),
        inputs=_specs(mapping, "inputs"),
        outputs=_specs(mapping, "outputs"),
        int8=_file(_typed(mapping, "int8", dict)) if "int8" in mapping else None,
    )


def _specs(mapping: Mapping[str, Any], key: str) -> tuple[TensorSpec, ...]:
    specs = []
    for entry in _typed(mapping, key, list):
        try:
            specs.append(TensorSpec(str(entry["name"]), str(entry["dtype"]), tuple(entry["shape"])))
        except (TypeError, KeyError, ValueError) as error:
            raise BundleError(f"manifest.json {key}: {entry!r} is not a tensor ({error})") from error
    if not specs:
        raise BundleError(f"manifest.json {key}: expected at least one tensor")
    return tuple(specs)


def _file_json(entry: FileEntry) -> dict[str, str]:
    return {"file": entry.file, "sha256": entry.sha256}


def _spec_json(spec: TensorSpec) -> dict[str, object]:
    return {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)}
