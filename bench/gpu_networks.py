"""Sections of `bench.gpu_check`: images/s of the networks alone, in torch, and what an H200 would allow.

`product` is the engine that a run takes, copies between host and device included; `on the device` has its
input and output stay there, which is what the goals of the two goal networks mean.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from bench.archive_factory import LARGE_FILM
from bench.goal_networks import GoalNetwork, goal_networks
from bench.gpu_findings import RATE, Bench, Findings, Row, attempted, demo_bundle, device_memory, rate_per_s
from engines.engine import Engine, Precision
from engines.manifest import GRAPHS
from engines.onnx_to_torch import OnnxModule
from engines.precision import to_precision
from engines.torch_reference import TorchEngine
from screener.routes import DEVICE_BYTES_PER_PIXEL

H200_FP16_FLOPS = 989e12
"""Dense FP16 tensor rate of one H200, NVIDIA's data sheet; the H100 SXM has the same."""
H200_BYTES = 141e9
COMPILE_S = 40.0
"""Least time in which another compilation is begun."""
GOAL_BATCH, PRODUCT_BATCH = 256, 64

Module = Callable[..., Any]
Feeds = dict[str, np.ndarray[Any, np.dtype[np.float32]]]


def feeds_of(bench: Bench, name: str, count: int) -> Feeds:
    """Seeded noise for one of the bundle's graphs, with a crop box in the middle."""
    random = np.random.default_rng(0)
    specs = demo_bundle().graph(name).inputs
    feeds = {spec.name: random.random(spec.of_batch(count), np.float32) for spec in specs}
    if "box" in feeds:
        feeds["box"] = np.tile(np.array([100, 100, 700, 700], np.float32), (count, 1))
    return feeds


def networks(bench: Bench) -> Findings:
    """The bundle's networks in eager torch: the product's engine, and on the device."""
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "bf16") if bench.gpu else ("fp32", "fp16")
    for name in GRAPHS:
        for precision in precisions:
            label = f"{name} {precision}"
            yield from attempted(f"{label} torch, product", partial(_product_rate, bench, name, precision))
            yield from attempted(f"{label} torch eager", partial(_shipped_eager, bench, name, precision))


def _product_rate(bench: Bench, name: str, precision: Precision) -> Findings:
    before = device_memory(bench)
    count = PRODUCT_BATCH if bench.gpu else 1
    engine = TorchEngine.from_onnx(
        demo_bundle().read_graph(name), device=bench.torch_device, precision=precision, micro_batch=count
    )
    yield product_rate(bench, f"{name} {precision} torch, product x {count}", engine, name, count)
    after = device_memory(bench)
    if before and after:
        used = (after[0] - before[0]) / 1e6
        yield Row(f"{name} {precision} torch, memory x {count}", used, "MB")
    engine.close()
    if bench.gpu:
        torch.cuda.empty_cache()  # or the next engine seems to take nothing


def product_rate(bench: Bench, label: str, engine: Engine, name: str, count: int) -> Row:
    """Images a second through an engine's `run`, copies included."""
    feeds = feeds_of(bench, name, count)
    return Row(label, rate_per_s(bench, lambda: engine.run(feeds)) * count, RATE)


def _shipped_eager(bench: Bench, name: str, precision: Precision) -> Findings:
    count = PRODUCT_BATCH if bench.gpu else 1
    module, feeds = _shipped(bench, name, precision, count)
    yield Row(f"{name} {precision} torch eager x {count}", _torch_rate(bench, module, feeds), RATE)


def _shipped(
    bench: Bench, name: str, precision: Precision, count: int
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    graph = demo_bundle().read_graph(name)
    module = OnnxModule(graph if precision == "fp32" else to_precision(graph, precision))
    feeds = feeds_of(bench, name, count)
    on_device = tuple(torch.from_numpy(array).to(bench.torch_device) for array in feeds.values())
    return module.eval().to(bench.torch_device), on_device


def _torch_rate(bench: Bench, module: Module, feeds: tuple[Tensor, ...]) -> float:
    torch.backends.cudnn.benchmark = True

    def once() -> None:
        with torch.no_grad():
            module(*feeds)
        if feeds[0].is_cuda:
            torch.cuda.current_stream().synchronize()

    return rate_per_s(bench, once) * len(feeds[0])


def goals(bench: Bench) -> Findings:
    """DenseNet-121 and U-Net in fp16, eager and as a CUDA graph."""
    for network in goal_networks(small=bench.gpu is None):
        yield from attempted(f"{network.name} eager", partial(_goal_eager, bench, network))
        if bench.gpu:
            yield from attempted(f"{network.name} CUDA graph", partial(_goal_captured, bench, network))


def _goal_eager(bench: Bench, network: GoalNetwork) -> Findings:
    module, images = _on_device(bench, network)
    yield goal_row(bench, network, "torch eager", _torch_rate(bench, module, (images,)))


def _goal_captured(bench: Bench, network: GoalNetwork) -> Findings:
    module, images = _on_device(bench, network)
    _torch_rate(bench, module, (images,))
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        module(images)
    rate = _torch_rate(bench, lambda _: graph.replay(), (images,))
    yield goal_row(bench, network, "torch CUDA graph", rate)


def _on_device(bench: Bench, network: GoalNetwork) -> tuple[nn.Module, Tensor]:
    count, dtype = (GOAL_BATCH, torch.float16) if bench.gpu else (2, torch.float32)
    module = network.module.to(bench.torch_device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.rand(count, 1, network.side, network.side, device=bench.torch_device, dtype=dtype)
    return module, images.contiguous(memory_format=torch.channels_last)


def goal_row(bench: Bench, network: GoalNetwork, how: str, rate: float) -> Row:
    """A rate of a goal network; the goal is judged on the best of all ways, in `allowance`."""
    return Row(f"{network.name} fp16 {how} x {GOAL_BATCH if bench.gpu else 2}", rate, RATE)


def compiled(bench: Bench) -> Findings:
    """All four networks through torch.compile in fp16, weights folded into the convolutions first."""
    for folded in (True, False):
        how = "torch compiled, folded" if folded else "torch compiled"
        for network in goal_networks(small=bench.gpu is None):
            yield from _if_time(
                bench, f"{network.name} {how}", partial(_goal_compiled, bench, network, how, folded)
            )
        for name in GRAPHS:
            label = f"{name} fp16 {how}"
            yield from _if_time(bench, label, partial(_shipped_compiled, bench, name, label, folded))
        if bench.gpu is None:
            return


def _if_time(bench: Bench, label: str, measure: Callable[[], Findings]) -> Findings:
    if bench.gpu and bench.seconds_left < COMPILE_S:
        yield Row(label, "not run: no time left", met=False)
        return
    yield from attempted(label, measure)


def _goal_compiled(bench: Bench, network: GoalNetwork, how: str, folded: bool) -> Findings:
    module, images = _on_device(bench, network)
    yield goal_row(bench, network, how, _torch_rate(bench, _compile(bench, module, folded), (images,)))


def _shipped_compiled(bench: Bench, name: str, label: str, folded: bool) -> Findings:
    count = PRODUCT_BATCH if bench.gpu else 1
    module, feeds = _shipped(bench, name, "fp16" if bench.gpu else "fp32", count)
    with torch.no_grad():
        traced = make_fx(module)(*feeds)  # the interpreter of ONNX nodes is no code to compile
    yield Row(f"{label} x {count}", _torch_rate(bench, _compile(bench, traced, folded), feeds), RATE)


def _compile(bench: Bench, module: nn.Module, folded: bool) -> Module:
    """With the code generator on a GPU; on a processor only as far as it is traced."""
    torch.compiler.reset()
    if bench.gpu is None:
        return torch.compile(module, backend="eager")
    options: dict[str, str | int | bool | Callable[..., Any]] = {
        "triton.cudagraphs": True,
        "freezing": folded,
    }
    return torch.compile(module, options=options)


def allowance(bench: Bench) -> Findings:
    """Best rates against the goals; what an H200's tensor rate and memory would allow each network."""
    rates = [row for row in bench.earlier_rows() if row.unit == RATE and isinstance(row.value, float)]
    for network in goal_networks(small=bench.gpu is None):
        flops = _flops(network.module, (torch.zeros(1, 1, network.side, network.side),))
        best = _best(rates, f"{network.name} fp16")
        yield bench.judged(
            f"{network.name} fp16, best", best, RATE, f">= {network.goal:.0f}", met=best >= network.goal
        )
        yield from _allowed(network.name, flops, best)
    for name in GRAPHS:
        module, feeds = _shipped(Bench(None, bench.folder, bench.deadline), name, "fp32", 1)
        yield from _allowed(name, _flops(module, feeds), _best(rates, f"{name} fp16"))
    yield from _allowed_memory(bench)


def _best(rates: list[Row], name: str) -> float:
    return max((float(row.value) for row in rates if row.name.startswith(name)), default=0.0)


def _flops(module: nn.Module, feeds: tuple[Tensor, ...]) -> float:
    """Floating-point operations of one image, multiplications and additions counted."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.float()(*feeds)
    return float(counter.get_total_flops())


def _allowed(name: str, flops: float, best: float) -> Findings:
    yield Row(f"{name}", flops / 1e9, "GFLOP an image")
    yield Row(f"{name}, H200's fp16 tensor rate would allow", H200_FP16_FLOPS / flops, RATE)
    yield Row(f"{name}, share of that reached", best * flops / H200_FP16_FLOPS)


def _allowed_memory(bench: Bench) -> Findings:
    for row in bench.earlier_rows():
        if ", memory x " in row.name and isinstance(row.value, float) and row.value > 0:
            count = int(row.name.rpartition(" ")[2])
            yield Row(
                f"{row.name}: images in an H200's memory", H200_BYTES / (row.value * 1e6 / count), "images"
            )
    pixels = LARGE_FILM[0] * LARGE_FILM[1]
    yield Row(
        "films being painted in an H200's memory", H200_BYTES / (pixels * DEVICE_BYTES_PER_PIXEL), "films"
    )
