"""Recipe files (TOML) to frozen records, and records back to TOML beside the checkpoint.

One file describes a run completely: data, splits, network, optimiser, schedule, augmentation, seed. The
decision a reader would question: an unknown key is an error, never ignored, because a misspelt setting
would silently train something else than its author believes.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from screener.errors import ConfigError

Recipe = TypeVar("Recipe")


@dataclass(frozen=True, slots=True)
class FitRecipe:
    """Optimiser, schedule and hardware of one run."""

    epochs: int = 20
    """Passes over the training films."""
    batch_size: int = 16
    """Films per optimiser step and device."""
    learning_rate: float = 1e-3
    """Peak of a one-cycle cosine schedule."""
    warmup_share: float = 0.1
    """Share of all steps over which the rate rises linearly."""
    weight_decay: float = 1e-2
    """AdamW decay; normalisation parameters and biases are not decayed."""
    ema_decay: float = 0.99
    """Decay per step of the moving average of weights that is evaluated and exported; 0 switches it off."""
    clip_norm: float = 1.0
    """Largest gradient norm."""
    seed: int = 1
    """Of initial weights, order and augmentation."""
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train."""
    devices: int = 1
    """Devices; more than one trains with distributed data parallel."""
    precision: Literal["32-true", "bf16-mixed"] = "bf16-mixed"
    """Arithmetic of the forward pass; bf16 pays on processors and GPUs with bf16 matrix units."""
    threads: int = 0
    """CPU threads; 0 keeps torch's own choice."""
    compile: bool = False
    """Compile the network: minutes at the start, then up to half the time per step."""
    cuda_graphs: bool = False
    """Replay forward and backward pass as CUDA graphs; nothing on a processor, and not beside `compile`."""
    freeze_statistics: bool = False
    """Normalise by fixed statistics: the starting run's, measured again on this run's pictures first.
    Faster on a CPU, above all compiled, and independent of the batch."""
    evaluate_every: int = 1
    """Epochs between evaluations on the validation part; the last epoch is always evaluated."""

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or self.learning_rate <= 0 or not 0 <= self.ema_decay < 1:
            raise ConfigError(
                "fit: epochs and batch_size start at 1, learning_rate above 0, ema_decay in [0, 1)"
            )
        if self.compile and self.cuda_graphs:
            raise ConfigError("fit: compile or cuda_graphs, not both")


def load_recipe(path: Path, kind: type[Recipe]) -> Recipe:
    """Read a recipe file.

    Args:
        path: TOML file whose tables mirror the nested records of `kind`.
        kind: frozen dataclass to build.

    Raises:
        ConfigError: unreadable file, unknown key, or a value of the wrong type; names the key.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"recipe {path.name} cannot be read: {type(error).__name__}") from error
    return build(kind, tables, where=path.name)


def build(kind: type[Recipe], table: dict[str, Any], *, where: str) -> Recipe:
    """Nested tables to a nested dataclass; see `load_recipe`."""
    hints = typing.get_type_hints(kind)
    known = {field.name for field in dataclasses.fields(cast(Any, kind))}
    unknown = sorted(set(table) - known)
    if unknown:
        raise ConfigError(f"{where}: unknown key {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    values = {name: _value(hints[name], value, f"{where}: {name}") for name, value in table.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise ConfigError(f"{where}: {error}") from error


def _value(hint: Any, value: Any, where: str) -> Any:  # noqa: ANN401 - TOML values are any type
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return build(cast(type, hint), value, where=where)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return _value(next(a for a in arguments if a is not type(None)), value, where)
    if origin is Literal:
        fits = value in arguments
    elif origin is tuple:
        fits = isinstance(value, list)
        value = tuple(value) if fits else value
    elif hint is Path:
        fits = isinstance(value, str)
        value = Path(value) if fits else value
    elif hint is float:
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        value = float(value) if fits else value
    else:
        fits = isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
    if not fits:
        raise ConfigError(f"{where}: {value!r} is not {getattr(hint, '__name__', hint)}")
    return value


def to_toml(recipe: object) -> str:
    """A recipe as TOML text that `load_recipe` reads back; absent optional values are left out."""
    lines: list[str] = []
    _write(dataclasses.asdict(cast(Any, recipe)), "", lines)
    return "\n".join(lines).lstrip("\n") + "\n"


def _write(table: dict[str, Any], name: str, lines: list[str]) -> None:
    if name:
        lines.extend(("", f"[{name}]"))
    nested = {key: value for key, value in table.items() if isinstance(value, dict)}
    for key, value in table.items():
        if value is None or key in nested:
            continue
        # JSON strings, numbers, booleans and arrays of them are valid TOML.
        lines.append(f"{key} = {json.dumps(str(value) if isinstance(value, Path) else value)}")
    for key, value in nested.items():
        _write(value, f"{name}.{key}" if name else key, lines)
