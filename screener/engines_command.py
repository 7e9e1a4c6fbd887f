"""`screener engines`: compile a bundle's networks ahead, list plans, hold engines against the reference."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from screener.errors import ConfigError, ExitCode

if TYPE_CHECKING:
    from engines.plan_cache import PlanRecord
    from engines.plan_commands import Verification
    from screener.records import Float32

app = typer.Typer(help="Compile networks ahead and check them.", no_args_is_help=True)

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
MAX_FILMS = 256
"""Films that `verify` takes at most: enough to see a flip rate of half a percent."""

BundlePath = Annotated[Path | None, typer.Option(help="Model bundle; default: the one that ships.")]
GpuNumber = Annotated[int, typer.Option("--device", help="Number of the GPU.")]
PrecisionList = Annotated[str, typer.Option("--precision", help="By comma: fp32, fp16, bf16, int8.")]


@app.command()
def build(bundle: BundlePath = None, precision: PrecisionList = "fp16", device: GpuNumber = 0) -> None:
    """Build TensorRT plans for a GPU, with progress and time left."""
    from engines.plan_cache import PlanCache
    from engines.plan_commands import build_plans, plan_target
    from screener.progress import build_progress
    from screener.run import open_verified

    opened, wanted = open_verified(bundle), _precisions(precision)
    target = plan_target(device)
    with build_progress() as on_build:
        records = list(build_plans(opened, wanted, target, PlanCache(), on_build))
    _print_plans(records)


@app.command("list")
def list_() -> None:
    """List the plans kept for this user."""
    from engines.plan_cache import PlanCache
    from engines.plan_commands import list_plans

    _print_plans(list_plans(PlanCache()))


@app.command()
def verify(
    films: Annotated[Path, typer.Argument(help="Folder of DICOM chest radiographs.", show_default=False)],
    bundle: BundlePath = None,
    precision: PrecisionList = "bf16",
    device: Annotated[str, typer.Option(help="cpu, or the number of a GPU.")] = "cpu",
) -> None:
    """Hold engines against plain torch on real films; a plan that fails is not registered: no run uses it."""
    from engines.plan_cache import PlanCache
    from engines.plan_commands import plan_target, verify_cpu, verify_plans
    from screener.progress import build_progress
    from screener.run import open_verified

    opened, wanted = open_verified(bundle), _precisions(precision)
    canvas = _canvases(films)
    if device == "cpu":
        verified = list(verify_cpu(opened, wanted, canvas))
    elif device.isdigit():
        target, cache = plan_target(int(device)), PlanCache()
        with build_progress() as on_build:
            verified = list(verify_plans(opened, wanted, target, cache, canvas, on_build=on_build))
    else:
        raise ConfigError(f"--device {device}: expected cpu or the number of a GPU")
    _print_verified(verified)
    raise typer.Exit(ExitCode.FAILED if any(each.failures for each in verified) else ExitCode.DONE)


def _precisions(text: str) -> tuple[str, ...]:
    wanted = tuple(name.strip() for name in text.split(",") if name.strip())
    unknown = [name for name in wanted if name not in PRECISIONS]
    if unknown or not wanted:
        raise ConfigError(f"--precision {text}: expected {', '.join(PRECISIONS)}")
    return wanted


def _canvases(films: Path) -> Float32:
    import threading

    import numpy as np

    from screener.archive import walk
    from screener.host_loader import HostLoader
    from screener.settings import RunSettings

    taken: list[Float32] = []
    with HostLoader(films, RunSettings(), threading.Event()) as loader:
        for batch in loader.batches(walk(films), on_reject=lambda _: None):
            taken.append(batch.canvas.copy())
            loader.release(batch)
            if sum(map(len, taken)) >= MAX_FILMS:
                break
    if not taken:
        raise ConfigError("the folder holds no film that can be screened")
    return np.concatenate(taken)[:MAX_FILMS]


def _print_plans(records: Iterable[PlanRecord]) -> None:
    from rich.console import Console

    from screener.terminal import table

    plans = table("Plans", "graph", "precision", "library", "device", "MB", "layers", "built in s", "verdict")
    for record in records:
        key = record.key
        size = f"{record.size_bytes / 1e6:.1f}"
        seconds = f"{record.build_seconds:.1f}"
        layers = str(record.num_layers or "")
        library, device = key.library.partition("-")[0], key.device.partition(" [")[0]
        graph = key.graph or key.onnx_sha256[:8]
        plans.add_row(graph, key.precision, library, device, size, layers, seconds, _verdict(record))
    Console().print(plans)


def _verdict(record: PlanRecord) -> str:
    if not record.key.driver:  # only plans of a GPU are verified one by one
        return ""
    if record.verdict is None:
        return record.standing
    return f"{record.standing} on {record.verdict.num_images} films: " + (
        "; ".join(record.verdict.failures)
        or f"mean logit error {record.verdict.mean_logit_error:.4f}, Dice {record.verdict.mask_dice:.4f}"
    )


def _print_verified(verified: Sequence[Verification]) -> None:
    from rich.console import Console

    from screener.terminal import table

    found = table(
        "Against torch in float32",
        "precision",
        "films",
        "worst logit error",
        "stage flips",
        "diagnosis flips",
        "mask Dice",
        "verdict",
    )
    for each in verified:
        comparison = each.comparison
        worst = max(error.largest for error in comparison.logits)
        found.add_row(
            each.precision,
            str(comparison.num_images),
            f"{worst:.4f}",
            f"{comparison.stage_flips:.2%}",
            f"{comparison.diagnosis_flips:.2%}",
            f"{comparison.mask_dice:.4f}",
            "; ".join(each.failures) or "kept",
        )
    Console().print(found)
