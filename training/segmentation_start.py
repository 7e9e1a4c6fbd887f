"""The segmentation of the bundle that ships to a run folder that another run can start from.

    python -m training.segmentation_start --data DIR --recipe RECIPE --out RUN

A bundle holds weights with normalisation folded in, and not who was held out. Normalisations are taken
apart again and measured on the recipe's films; the split is the recipe's. The decision a reader would
question: that the bundle was trained on this very split cannot be checked here. With the shipped recipes'
pairs and seed that holds for films with masks. Films without were dealt otherwise then: what a run that
starts here says of the frontal head is not of unseen patients.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from screener.errors import ScreenerError
from training.bundle_start import load_folded, measure_folded
from training.checkpoints import segmentation_of
from training.fit import write_torch
from training.networks import SegmentationNetwork
from training.recipe import load_recipe
from training.run_record import describe_run
from training.runs import dealt_films, training_films, write_dealt
from training.segmentation_task import PooledSegmentation, SegmentationRecipe, SegmentationTask


def start_folder(recipe: SegmentationRecipe, data: Path, folder: Path, *, num_batches: int = 12) -> None:
    """Write the shipped segmentation as a run folder.

    Args:
        recipe: of the run that is to start from it; its network must be the shipped one's.
        data: folder that the recipe's indexes are below.
        folder: run folder to write: `last.pt`, `recipe.toml`, `run.json`, `split.csv`.
        num_batches: batches that the normalisations are measured on.

    Raises:
        ConfigError: an index that cannot be used; names file and row.
        RuntimeError: a network of another shape.
    """
    everything, parts = dealt_films(recipe, data)
    network = PooledSegmentation(SegmentationNetwork(recipe.network))
    folded = load_folded(network, PooledSegmentation(segmentation_of(None, folder.parent)))
    train = training_films(recipe, everything, parts)
    task = SegmentationTask(train, everything.take(parts == "calibration"), recipe.augmentation)
    measure_folded(network, folded, task, recipe.fit, num_batches)
    describe_run(folder, replace(recipe, initial_run=None, start_share=0.0, cohorts=()))
    write_dealt(folder, everything, parts)
    write_torch(folder / "last.pt", {"average": network.state_dict()})


def main() -> int:
    """Read the command line and write the folder."""
    parser = argparse.ArgumentParser(
        prog="python -m training.segmentation_start", description="The shipped segmentation as a run folder."
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that the recipe's indexes are below")
    parser.add_argument("--recipe", type=Path, required=True, help="of the run that is to start from it")
    parser.add_argument("--out", type=Path, required=True, help="run folder to write")
    arguments = parser.parse_args()
    try:
        start_folder(load_recipe(arguments.recipe, SegmentationRecipe), arguments.data, arguments.out)
    except ScreenerError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
