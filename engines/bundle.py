"""Writes a model bundle, and opens one (a folder or one .zip file) with everything in it verified first.

A bundle is inert: JSON, Markdown and ONNX, nothing that unpickles or executes. The decision a reader would
question: a graph is hashed again whenever its bytes are handed to an engine. It costs milliseconds, and what
runs is then what was verified even if the folder changed in between.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.errors import BundleError
from engines.int8_ranges import Int8Ranges, parse_ranges
from engines.manifest import GRAPHS, FileEntry, GraphEntry, Labels, Manifest, parse_manifest
from engines.onnx_header import read_onnx_header
from engines.tensor_spec import TensorSpec

MANIFEST = "manifest.json"

MAX_FILE_BYTES = 2**29
"""No file of a bundle is larger: 512 MiB is ten times the networks in use. Stops a deflate bomb."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle."""

    path: Path
    """The folder or the single file."""
    manifest: Manifest
    calibration: bytes
    """`calibration.json` as it is; the calibration package reads it."""
    model_card: str
    """Markdown."""
    model_sha256: str
    """Identity of the networks (see `model_sha256`); calibration is bound to it."""
    manifest_sha256: str
    """Identity of the whole bundle: the manifest holds every other file's hash."""

    @property
    def labels(self) -> Labels:
        """Class names of the task heads."""
        return self.manifest.labels

    @property
    def has_int8(self) -> bool:
        """Whether any graph can be run in int8."""
        return any(graph.int8 for graph in self.manifest.graphs.values())

    @property
    def int8_sha256(self) -> str:
        """Identity of the int8 ranges: SHA-256 over their files' hashes; none are there, of nothing."""
        files = (self.manifest.graphs[name].int8 for name in GRAPHS)
        return hashlib.sha256("".join(file.sha256 for file in files if file).encode()).hexdigest()

    @property
    def title(self) -> str:
        """Name, version and model, as other bundles' cards name this one."""
        return f"{self.manifest.name} {self.manifest.version}, model {self.model_sha256[:12]}"

    def graph(self, name: str) -> GraphEntry:
        """The manifest's entry of one graph.

        Raises:
            BundleError: no such graph.
        """
        if name not in self.manifest.graphs:
            raise BundleError(f"the bundle has no graph {name!r}; it has {', '.join(self.manifest.graphs)}")
        return self.manifest.graphs[name]

    def read_graph(self, name: str, *, int8: bool = False) -> bytes:
        """The ONNX bytes of one graph, hashed again.

        Args:
            name: `segmentation` or `classification`.
            int8: make the Q/DQ graph; of a bundle that quantises only the other one, take the float graph.

        Raises:
            BundleError: the bundle quantises no graph at all, or a file changed since it was opened.
            EngineError: the bundle's ranges are not this graph's.
        """
        graph = self.graph(name)
        if int8 and not self.has_int8:
            raise BundleError("the bundle has no int8 ranges; use --precision bf16 or fp32")
        model = _read_verified(self.path, graph.file)
        ranges = self.read_ranges(name) if int8 else None
        if ranges is None:
            return model
        from engines.quantised_graph import quantised_graph  # imports onnx, which takes its time

        return quantised_graph(model, ranges)

    def read_ranges(self, name: str) -> Int8Ranges | None:
        """Activation ranges of one graph; None where it is not quantised.

        Raises:
            BundleError: a file changed since the bundle was opened.
            EngineError: the ranges are not this graph's.
        """
        graph = self.graph(name)
        return None if graph.int8 is None else _read_ranges(self.path, graph, graph.int8)


def open_bundle(path: Path, *, canvas_version: str, canvas_side: int) -> Bundle:
    """Open a bundle and verify everything in it.

    Args:
        path: a bundle folder, or one file holding such a folder's files (zip, by any suffix).
        canvas_version: the canvas definition that the caller draws; the networks know no other.
        canvas_side: its side in pixels.

    Raises:
        BundleError: a missing file, a wrong hash, another canvas, a graph whose tensors differ from the
            manifest, int8 ranges that are damaged or another graph's, or an unsafe manifest. The text names
            the file and what to do.
    """
    text = _read(path, MANIFEST)
    manifest = parse_manifest(text)
    if (manifest.canvas_version, manifest.canvas_side) != (canvas_version, canvas_side):
        raise BundleError(
            f"the bundle was made for canvas {manifest.canvas_version} of {manifest.canvas_side} px; "
            f"this screener draws canvas {canvas_version} of {canvas_side} px: use a bundle made for it"
        )
    for entry in manifest.files:
        _read_verified(path, entry)
    for graph in manifest.graphs.values():
        _check_tensors(graph.file.file, _read_verified(path, graph.file), graph)
        if graph.int8:
            _read_ranges(path, graph, graph.int8)
    identity = model_sha256(*(manifest.graphs[name].file.sha256 for name in GRAPHS))
    calibration = _read_verified(path, manifest.calibration)
    _check_calibration(manifest.calibration.file, calibration, identity)
    return Bundle(
        path=path,
        manifest=manifest,
        calibration=calibration,
        model_card=_read_verified(path, manifest.model_card).decode("utf-8", errors="replace"),
        model_sha256=identity,
        manifest_sha256=hashlib.sha256(text).hexdigest(),
    )


def default_bundle() -> Path:
    """The bundle that ships."""
    return Path(__file__).parent / "bundles" / "demo"


def model_sha256(segmentation_sha256: str, classification_sha256: str) -> str:
    """Identity of a pair of networks: SHA-256 over the hexadecimal hashes of their float32 graphs.

    Int8 ranges are not part of it: quantised graphs are judged against these, and share their calibration.
    """
    return hashlib.sha256(f"{segmentation_sha256}{classification_sha256}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class BundleContents:
    """What a bundle is made of, before it is hashed."""

    name: str
    version: str
    canvas_version: str
    canvas_side: int
    segmentation: bytes
    """ONNX in float32."""
    classification: bytes
    labels: Labels
    mask_convention: str
    calibration: bytes
    """JSON; where it has a key `model_sha256`, that must be the networks'."""
    model_card: str
    licences: tuple[str, ...]
    intended_use: str
    segmentation_int8: Int8Ranges | None = None
    """Where the graph may be run in int8."""
    classification_int8: Int8Ranges | None = None


def write_bundle(folder: Path, contents: BundleContents) -> Bundle:
    """Write a bundle folder and open it.

    Args:
        folder: made if missing; files of the same names are replaced, the manifest last.
        contents: the bundle's parts. Inputs and outputs of the graphs are read from the graphs.

    Raises:
        BundleError: the parts do not make a bundle that `open_bundle` accepts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    graphs = {
        "segmentation": _write_graph(
            folder, "segmentation", contents.segmentation, contents.segmentation_int8
        ),
        "classification": _write_graph(
            folder, "classification", contents.classification, contents.classification_int8
        ),
    }
    manifest = Manifest(
        name=contents.name,
        version=contents.version,
        canvas_version=contents.canvas_version,
        canvas_side=contents.canvas_side,
        graphs=graphs,
        labels=contents.labels,
        mask_convention=contents.mask_convention,
        calibration=_write(folder, "calibration.json", contents.calibration),
        model_card=_write(folder, "MODEL_CARD.md", contents.model_card.encode()),
        licences=contents.licences,
        intended_use=contents.intended_use,
    )
    _write(folder, MANIFEST, manifest.to_json().encode())
    return open_bundle(folder, canvas_version=contents.canvas_version, canvas_side=contents.canvas_side)


def pack_bundle(bundle: Bundle, file: Path) -> None:
    """Write an opened bundle as one file that `open_bundle` also takes."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in (MANIFEST, *(entry.file for entry in bundle.manifest.files)):
            archive.writestr(name, _read(bundle.path, name))


def _write_graph(folder: Path, name: str, model: bytes, int8: Int8Ranges | None) -> GraphEntry:
    header = read_onnx_header(model)
    (folder / f"{name}.int8.json").unlink(missing_ok=True)  # of a bundle that was here before
    return GraphEntry(
        file=_write(folder, f"{name}.onnx", model),
        inputs=header.inputs,
        outputs=header.outputs,
        int8=_write(folder, f"{name}.int8.json", int8.to_json()) if int8 is not None else None,
    )


def _write(folder: Path, name: str, content: bytes) -> FileEntry:
    (folder / name).write_bytes(content)
    return FileEntry(name, hashlib.sha256(content).hexdigest())


def _read_verified(path: Path, entry: FileEntry) -> bytes:
    content = _read(path, entry.file)
    found = hashlib.sha256(content).hexdigest()
    if found != entry.sha256:
        raise BundleError(
            f"bundle file {entry.file} has SHA-256 {found[:12]}…, the manifest says {entry.sha256[:12]}…: "
            "the file is damaged or was changed; copy the bundle again from its source"
        )
    return content


def _read_ranges(path: Path, graph: GraphEntry, entry: FileEntry) -> Int8Ranges:
    return parse_ranges(_read_verified(path, entry), entry.file, graph.file.sha256)


def _read(path: Path, name: str) -> bytes:
    """One file of a bundle folder or of a packed bundle."""
    try:
        if path.is_dir():
            return _read_from_folder(path, name)
        with zipfile.ZipFile(path) as archive, archive.open(name) as member:
            content = member.read(MAX_FILE_BYTES + 1)
    except (FileNotFoundError, KeyError) as error:
        missing = f"bundle file {name}" if path.exists() else "the bundle"
        raise BundleError(f"{missing} is missing; copy the bundle again from its source") from error
    except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise BundleError(
            f"bundle file {name} cannot be read ({type(error).__name__}); "
            "expected a bundle folder or one packed file"
        ) from error
    return _limited(name, content)


def _read_from_folder(path: Path, name: str) -> bytes:
    file = path / name
    if file.is_symlink():
        raise BundleError(f"bundle file {name} is a symbolic link; expected the file itself")
    with file.open("rb") as stream:
        return _limited(name, stream.read(MAX_FILE_BYTES + 1))


def _limited(name: str, content: bytes) -> bytes:
    if len(content) > MAX_FILE_BYTES:
        raise BundleError(f"bundle file {name} is larger than {MAX_FILE_BYTES} bytes; no bundle file may be")
    return content


def _check_tensors(file: str, model: bytes, graph: GraphEntry) -> None:
    header = read_onnx_header(model)
    for what, found, expected in (
        ("inputs", header.inputs, graph.inputs),
        ("outputs", header.outputs, graph.outputs),
    ):
        if found != expected:
            raise BundleError(
                f"bundle file {file}: its {what} are {_listed(found)}; the manifest says "
                f"{_listed(expected)}: build the bundle again"
            )


def _listed(specs: tuple[TensorSpec, ...]) -> str:
    return "; ".join(map(str, specs)) or "none"


def _check_calibration(file: str, calibration: bytes, identity: str) -> None:
    try:
        root: Any = json.loads(calibration)
    except ValueError as error:
        raise BundleError(f"bundle file {file} is not JSON ({error}); build the bundle again") from error
    bound = root.get("model_sha256", identity) if isinstance(root, dict) else identity
    if bound != identity:
        raise BundleError(
            f"bundle file {file} was fitted to networks {str(bound)[:12]}…, "
            f"the bundle holds {identity[:12]}…: fit the calibration again"
        )
