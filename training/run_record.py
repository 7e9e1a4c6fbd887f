"""A recipe and its films to what a run folder says of itself, and to what a checkpoint may be continued with.

The decision a reader would question: a run may be continued for more epochs than it was started for. The
schedule then belongs to the new length, so the weights are not those of one long run; `run.json` lists every
later call with its commit.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import polars as pl
import torch

from screener.errors import ConfigError
from training.recipe import load_recipe, to_toml

RECIPE = "recipe.toml"
FACTS = "run.json"
MAY_CHANGE = frozenset(
    {
        "fit.epochs",
        "fit.evaluate_every",
        "fit.threads",
        "fit.compile",
        "fit.cuda_graphs",
        "fit.accelerator",
        "start_share",
    }
)
"""Settings of a recipe that a continued run may change: how long, on what, and what follows the last step."""

RunIdentity = Mapping[str, str]
"""What a checkpoint belongs to: a setting's name to its value as JSON, and the hash of the training films."""


def run_identity(recipe: object, films: Sequence[str]) -> RunIdentity:
    """Settings of a recipe that decide its weights, and a hash of the training films in their order.

    Args:
        recipe: nested dataclass with a `fit` table.
        films: identifier of every training film, in training order.
    """
    digest = hashlib.sha256(json.dumps(list(films)).encode()).hexdigest()
    settings = _flat(dataclasses.asdict(cast(Any, recipe)))
    kept = {name: value for name, value in settings.items() if name not in MAY_CHANGE}
    return kept | {"training films": digest}


def refuse_another_run(held: RunIdentity, now: RunIdentity, folder: Path) -> None:
    """Refuse to continue a checkpoint of other settings or other films.

    Args:
        held: of the checkpoint.
        now: of the run that is to continue it; a setting that only one of them names is passed over.
        folder: run folder, named in the message.

    Raises:
        ConfigError: they differ; names what differs.
    """
    differing = [name for name in now if name in held and held[name] != now[name]]
    if differing:
        shown = "; ".join(
            name if name == "training films" else f"{name} was {held[name]}, is {now[name]}"
            for name in differing
        )
        raise ConfigError(
            f"run {folder.name} was started otherwise and cannot be continued ({shown}): "
            "choose another name, or the recipe that it was started with"
        )


def describe_run(folder: Path, recipe: object, facts: Mapping[str, Any] | None = None) -> None:
    """Write the resolved recipe, git commit and versions beside the checkpoint.

    Called when training starts. A run that is called again keeps its first description; the call is added
    to it under `again`.

    Args:
        folder: run folder; created.
        recipe: of the run.
        facts: what else `run.json` should say, for example the cohorts.

    Raises:
        ConfigError: the folder holds a run of another recipe; names what differs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = folder / FACTS
    described = circumstances() | dict(facts or {})
    if (folder / "last.pt").exists() and (folder / RECIPE).exists():
        refuse_another_run(
            run_identity(load_recipe(folder / RECIPE, type(recipe)), ()), run_identity(recipe, ()), folder
        )
        first = json.loads(known.read_text(encoding="utf-8")) if known.exists() else {}
        described = first | {"again": [*first.get("again", ()), circumstances()]}
    (folder / RECIPE).write_text(to_toml(recipe), encoding="utf-8")
    known.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def circumstances() -> dict[str, Any]:
    """Commit, versions, machine and arguments of this process."""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "polars": pl.__version__}
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return {
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": None if changes is None else bool(changes),
        "versions": versions,
        "machine": platform.machine(),
        "argv": sys.argv[1:],
    }


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = json.dumps(str(value) if isinstance(value, Path) else value)
    return flat
