"""Runs a graph on the CPU with OpenVINO: many asynchronous requests, one image each.

The decision a reader would question is the micro-batch of one image. On cores with matrix units it was as
fast as any larger one (docs/decisions/engines-cpu.md), needs no padding, keeps the working set in cache, and
makes an image's result independent of its neighbours by construction.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov

from engines.errors import EngineError
from engines.lanes import LanePool
from engines.onnx_header import read_onnx_header
from engines.plan_cache import PlanCache, PlanKey
from engines.tensor_spec import check_feeds, filled_up

Arrays = dict[str, npt.NDArray[Any]]

MICRO_BATCH = 1
"""Images per inference request."""

_MATRIX_OPERATORS = ("Convolution", "ConvolutionBackpropData", "GroupConvolution", "MatMul")
_INT8_UNITS = frozenset({"amx_int8", "avx512_vnni", "avx_vnni"})
"""Processor flags as Linux names them."""
_CAPS_WITH_INT8_UNITS = ("ALL", "DEFAULT", "AVX512_CORE_", "AVX10")
"""Beginnings of the caps on what oneDNN uses that leave it such instructions for certain."""
_LAYERS_WITH_ISA = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")


@dataclass(slots=True)
class _Request:
    """One inference request and where its outputs go."""

    request: Any
    results: Arrays = field(default_factory=dict)
    """Slices of the caller's arrays."""
    padded: Arrays = field(default_factory=dict)
    """Outputs of a micro-batch that had to be filled up; empty when OpenVINO writes into `results` itself."""
    keep: tuple[Any, ...] = ()
    """Tensors and arrays that must live until the request is done."""


class OpenVinoEngine:
    """A graph compiled for this machine's CPU.

    Args:
        model: ONNX bytes with a dynamic batch; Q/DQ ONNX for int8.
        precision: `auto`, `fp32`, `bf16`, or `int8` for a quantised model. `auto` takes bf16 where the
            processor has instructions for it.
        threads: CPU threads, one stream each; None means every core this process may use.
        micro_batch: images per request.
        cache: where the compiled graph is kept between runs; None compiles every time.

    Raises:
        EngineError: the graph cannot be compiled, or the processor lacks the precision.
    """

    def __init__(
        self,
        model: bytes,
        *,
        precision: str = "auto",
        threads: int | None = None,
        micro_batch: int = MICRO_BATCH,
        cache: PlanCache | None = None,
    ) -> None:
        core = ov.Core()
        self._micro_batch = micro_batch
        header = read_onnx_header(model)
        self.inputs, self.outputs = header.inputs, header.outputs
        shapes = {spec.name: spec.of_batch(micro_batch) for spec in self.inputs}
        count = threads or len(os.sched_getaffinity(0))
        refusals = []
        for self.precision, hint in _arithmetics(core, precision):
            properties = {
                "PERFORMANCE_HINT": "THROUGHPUT",
                "INFERENCE_PRECISION_HINT": hint,
                "INFERENCE_NUM_THREADS": count,
                "NUM_STREAMS": count,
            }
            try:
                self._compiled = _compile(core, model, shapes, properties, cache)
                break
            except RuntimeError as error:
                refusals.append(f"{self.precision}: {_last_line(error)}")
        else:
            raise EngineError(f"OpenVINO cannot compile the graph ({'; '.join(refusals)})")
        # One more request than streams: a stream never waits for the host to fill the next one.
        requests = [_Request(self._compiled.create_infer_request()) for _ in range(count + 1)]
        self._lanes = LanePool(requests)
        processor = str(core.get_property("CPU", "FULL_DEVICE_NAME")).strip()
        self.description = (
            f"OpenVINO {ov.__version__.partition('-')[0]}, {self.precision} on {processor} "
            f"({_instruction_set(self._compiled)}), {count} streams of {micro_batch}"
            + "".join(f"; refused {refusal}" for refusal in refusals)
            + (
                "; no int8 units found: sums may saturate"
                if precision == "int8" and not has_int8_units()
                else ""
            )
        )

    def run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """Run N images; see `engines.engine.Engine.run`. Contiguous inputs and all outputs are not copied."""
        if self._compiled is None:
            raise EngineError("the engine is closed")
        count = check_feeds(self.inputs, feeds)
        sources = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
        results = {spec.name: np.empty(spec.of_batch(count), spec.dtype) for spec in self.outputs}

        def start(lane: _Request, first: int, last: int) -> None:
            lane.results = {name: array[first:last] for name, array in results.items()}
            self._start(lane, {name: array[first:last] for name, array in sources.items()}, last - first)

        try:
            self._lanes.run(count, self._micro_batch, start, _finish)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO failed: {_last_line(error)}") from error
        return results

    def close(self) -> None:
        """Drop the compiled network and its buffers."""
        self._compiled = None
        self._lanes.drain()

    def _start(self, lane: _Request, feeds: Arrays, count: int) -> None:
        lane.padded = {}
        if count < self._micro_batch:
            feeds = {name: filled_up(array, self._micro_batch) for name, array in feeds.items()}
            lane.padded = {
                spec.name: np.empty(spec.of_batch(self._micro_batch), spec.dtype) for spec in self.outputs
            }
        arrays = {**feeds, **(lane.padded or lane.results)}
        tensors = {name: ov.Tensor(array, shared_memory=True) for name, array in arrays.items()}
        for name, tensor in tensors.items():
            lane.request.set_tensor(name, tensor)
        lane.keep = (arrays, tensors)
        lane.request.start_async()


def _finish(lane: _Request) -> None:
    lane.request.wait()
    for name, array in lane.padded.items():
        lane.results[name][:] = array[: len(lane.results[name])]
    lane.keep = ()


def has_bf16() -> bool:
    """Whether the processor computes in bf16 natively."""
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def has_int8_units() -> bool:
    """Whether the processor multiplies int8 exactly into 32 bits (VNNI, AMX), as far as oneDNN may use it.

    Older ones add pairs of products in 16 bits, which saturate.
    """
    cap = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "ALL"
    if not cap.upper().startswith(_CAPS_WITH_INT8_UNITS):
        return False
    try:
        described = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return not _INT8_UNITS.isdisjoint(described)


def _arithmetics(core: ov.Core, precision: str) -> tuple[tuple[str, str], ...]:
    """What to try, in order: precision by name, and OpenVINO's hint for what stays floating point."""
    native_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision == "bf16" and not native_bf16:
        raise EngineError("this processor has no bf16 instructions; use --precision fp32 or auto")
    fp32, bf16 = ("fp32", "f32"), ("bf16", "bf16")
    choices = {
        # The processor may have bf16 and its use be switched off (hypervisor, ONEDNN_MAX_CPU_ISA): then fp32.
        "auto": (bf16, fp32) if native_bf16 else (fp32,),
        "fp32": (fp32,),
        "bf16": (bf16,),
        "int8": (("int8", "bf16"), ("int8", "f32")) if native_bf16 else (("int8", "f32"),),
    }
    if precision not in choices:
        raise EngineError(f"the CPU engine has no precision {precision}; use fp32, bf16, int8 or auto")
    return choices[precision]


def _compile(
    core: ov.Core,
    model: bytes,
    shapes: dict[str, tuple[int, ...]],
    properties: dict[str, Any],
    cache: PlanCache | None,
) -> ov.CompiledModel:
    """Compile, or take the compiled graph from the cache.

    OpenVINO's own cache folder is not used: it maps its files into memory (a file cut short kills the
    process), and checks no digest.
    """
    key = PlanKey(
        graph="",
        onnx_sha256=hashlib.sha256(model).hexdigest(),
        precision=str(properties["INFERENCE_PRECISION_HINT"]),
        profile=repr((shapes, properties)),
        library=f"OpenVINO {ov.__version__}",
        device=" ".join(
            str(core.get_property("CPU", name)) for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")
        ),
    )
    if cache and (plan := cache.load(key)):
        with suppress(RuntimeError):  # cannot be read back: compiled and stored again
            return core.import_model(plan, "CPU", properties)
    started = time.perf_counter()
    network = core.read_model(model)
    network.reshape(shapes)
    _keep_geometry_in_float32(network)
    compiled = core.compile_model(network, "CPU", properties)
    if cache:
        with suppress(EngineError):  # a full disk costs the next start half a second
            seconds = time.perf_counter() - started
            plan = compiled.export_model().getvalue()
            num_layers = len(compiled.get_runtime_model().get_ops())
            cache.store(key, plan, num_layers=num_layers, build_seconds=seconds)
    return compiled


def _keep_geometry_in_float32(network: ov.Model) -> None:
    """Make everything that is not behind a convolution compute in float32 even under a bf16 hint.

    Crop coordinates in bf16 are multiples of 4 pixels near the far edge of a 768 canvas, and sums over a mask
    stop growing at 256. The CPU plugin leaves in float32 whatever reaches an output without passing a
    convolution or a matrix product, so each value that such geometry hands to the network behind becomes an
    output too.
    """
    varying: set[str] = set()
    behind: set[str] = set()
    handed_over: dict[tuple[str, int], Any] = {}
    for operator in network.get_ordered_ops():
        name, kind = operator.get_friendly_name(), operator.get_type_name()
        sources = [(value.get_node().get_friendly_name(), value) for value in operator.input_values()]
        if kind == "Parameter" or any(source in varying for source, _ in sources):
            varying.add(name)
        if kind in _MATRIX_OPERATORS or any(source in behind for source, _ in sources):
            behind.add(name)
            for source, value in sources:
                is_computed = source in varying and value.get_node().get_type_name() != "Parameter"
                if is_computed and source not in behind and value.get_element_type() == ov.Type.f32:
                    handed_over[source, value.get_index()] = value
    if handed_over:
        network.add_outputs(list(handed_over.values()))


def _instruction_set(compiled: ov.CompiledModel) -> str:
    """The instruction set most of the network's matrix work was compiled for, as the plugin reports it."""
    kinds: Counter[str] = Counter()
    for operator in compiled.get_runtime_model().get_ordered_ops():
        facts = {key: str(getattr(value, "value", value)) for key, value in operator.get_rt_info().items()}
        if facts.get("layerType") in _LAYERS_WITH_ISA:
            kinds[facts.get("primitiveType", "unknown")] += 1
    if not kinds:
        return "unknown instructions"
    kernel = kinds.most_common(1)[0][0]
    known = ("avx512_core_amx", "avx512_amx", "avx10", "avx512", "avx2_vnni", "avx2", "sse41", "sve", "neon")
    return next((name for name in known if name in kernel), kernel).replace("_core", "")


def _last_line(error: Exception) -> str:
    """The cause at the end of OpenVINO's multi-line messages."""
    return next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
