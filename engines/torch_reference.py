"""Runs a torch module as an engine: the reference of the tests, and the GPU engine where TensorRT is missing.

On a GPU each micro-batch is one replay of a CUDA graph over static buffers. The decision a reader would
question: the last, short micro-batch is filled up and run at the same size as the others, because a library
may choose another algorithm for another batch size and an image's result must not depend on its neighbours.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from engines.errors import EngineError
from engines.onnx_header import read_onnx_header
from engines.tensor_spec import TensorSpec, check_feeds, filled_up

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(slots=True)
class _Captured:
    """A CUDA graph and the buffers it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    stream: torch.cuda.Stream


class TorchEngine:
    """A module in evaluation mode behind the `Engine` contract.

    Args:
        module: float32 tensors in the order of `inputs` in, float32 tensors in the order of `outputs` out;
            what it computes in between is its own business.
        inputs: what the module takes.
        outputs: what it returns.
        device: `cpu` or `cuda:N`.
        precision: name of the module's arithmetic, for the description.
        micro_batch: images per call of the module.

    Raises:
        EngineError: no such device.
    """

    def __init__(
        self,
        module: nn.Module,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        *,
        device: str = "cpu",
        precision: str = "fp32",
        micro_batch: int = 1,
    ) -> None:
        self.inputs, self.outputs, self.precision = inputs, outputs, precision
        self._micro_batch = micro_batch
        self._lock = threading.Lock()
        self._captured: _Captured | None = None
        try:
            self._device = torch.device(device)
            self._module: nn.Module | None = module.eval().to(self._device)
            if self._device.type == "cuda":
                self._captured = self._capture()
        except RuntimeError as error:
            raise EngineError(f"torch cannot run the network on {device}: {error}") from error
        where = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "CPU"
        how = f"CUDA graph of {micro_batch}" if self._captured else f"batches of {micro_batch}"
        self.description = f"torch {torch.__version__}, {precision} on {where}, {how}"

    @classmethod
    def from_onnx(
        cls, model: bytes, *, device: str = "cpu", precision: str = "fp32", micro_batch: int = 1
    ) -> Self:
        """Rebuild a network from its ONNX graph.

        Args:
            model: float32 ONNX, or Q/DQ ONNX for int8.
            device: `cpu` or `cuda:N`.
            precision: `fp32`, `fp16` or `bf16`; `int8` computes a Q/DQ graph as it is written.
            micro_batch: images per call.

        Raises:
            EngineError: an operator that is not covered, or another precision.
        """
        from engines.onnx_to_torch import OnnxModule
        from engines.precision import to_precision

        header = read_onnx_header(model)
        if precision == "fp16" or precision == "bf16":
            model = to_precision(model, precision)
        elif precision not in ("fp32", "int8"):
            raise EngineError(f"the torch engine has no precision {precision}; use fp32, fp16, bf16 or int8")
        return cls(
            OnnxModule(model),
            header.inputs,
            header.outputs,
            device=device,
            precision=precision,
            micro_batch=micro_batch,
        )

    def run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """Run N images; see `engines.engine.Engine.run`. Calls of several threads take turns."""
        count = check_feeds(self.inputs, feeds)
        results = {spec.name: np.empty(spec.of_batch(count), spec.dtype) for spec in self.outputs}
        with self._lock, torch.inference_mode():
            if self._module is None:
                raise EngineError("the engine is closed")
            try:
                for start in range(0, count, self._micro_batch):
                    stop = min(start + self._micro_batch, count)
                    images = [filled_up(feeds[s.name][start:stop], self._micro_batch) for s in self.inputs]
                    chunk = [torch.from_numpy(np.ascontiguousarray(array)) for array in images]
                    for spec, output in zip(self.outputs, self._compute(chunk), strict=True):
                        results[spec.name][start:stop] = output[: stop - start]
            except RuntimeError as error:
                raise EngineError(f"torch failed: {error}") from error
        return results

    def close(self) -> None:
        """Drop the module and its buffers."""
        with self._lock:
            self._module = self._captured = None

    def _compute(self, chunk: list[Tensor]) -> list[npt.NDArray[Any]]:
        """One micro-batch, on the device and back."""
        assert self._module is not None
        captured = self._captured
        if captured is None:
            return [output.numpy() for output in self._module(*chunk)]
        with torch.cuda.stream(captured.stream):
            for buffer, tensor in zip(captured.inputs, chunk, strict=True):
                buffer.copy_(tensor)
            captured.graph.replay()
            outputs = [output.to("cpu", non_blocking=True) for output in captured.outputs]
        captured.stream.synchronize()
        return [output.numpy() for output in outputs]

    def _capture(self) -> _Captured:
        """Warm up on a side stream, then capture one micro-batch."""
        assert self._module is not None
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        inputs = tuple(
            torch.zeros(spec.of_batch(self._micro_batch), device=self._device) for spec in self.inputs
        )
        with torch.inference_mode(), torch.cuda.stream(stream):
            for _ in range(3):
                self._module(*inputs)
            stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                outputs = self._module(*inputs)
        return _Captured(graph, inputs, tuple(outputs), stream)
