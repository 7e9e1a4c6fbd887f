"""A drawn finding is drawn again until a reader could see it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.test_cohort import host_list
from tests.test_opacities import FIELD, PIXEL_MM
from training.cohort import build
from training.cohort_deal import CohortSettings
from training.conspicuity import LEAST, Float32, Surroundings, taken_as_visible, until_visible
from training.films import read_films, real_film
from training.findings import FindingPlan, LargePlan, TbPattern
from training.large_opacities import large_opacities
from training.nuisances import sample_nuisance
from training.tuberculosis import tuberculosis

NOTHING = np.zeros(FIELD.shape, np.float32)


def film(spread: float) -> Float32:
    """Structures of about a centimetre, as restless as said."""
    noise = np.random.default_rng(1).standard_normal(FIELD.shape).astype(np.float32)
    rough = cv2.GaussianBlur(noise, (0, 0), 5 / PIXEL_MM)
    return np.asarray(0.4 + spread * rough / rough.std(), np.float32)


def blob(depth: float, size_mm: float = 15.0) -> Float32:
    dot = NOTHING.copy()
    dot[200, 80] = 1
    smooth = cv2.GaussianBlur(dot, (0, 0), size_mm / PIXEL_MM)
    return np.asarray(depth * smooth / smooth.max(), np.float32)


@pytest.mark.parametrize("spread", [0.01, 0.03])
def test_contrast_is_the_change_over_the_spread_of_anatomy(spread: float) -> None:
    anatomy = Surroundings.of(film(spread), FIELD.lungs, PIXEL_MM)
    assert 0.2 * spread < anatomy.spread < spread
    assert anatomy.contrast(blob(0.1)) == pytest.approx(0.1 / anatomy.spread, rel=0.12)
    assert anatomy.contrast(-blob(0.1)) == pytest.approx(0.1 / anatomy.spread, rel=0.12)
    assert anatomy.contrast(NOTHING) == 0
    assert Surroundings.of(film(spread), np.zeros_like(FIELD.lungs), PIXEL_MM).contrast(blob(1.0)) == 0


@given(st.lists(st.floats(0, 6), min_size=6, max_size=6))
def test_drawing_ends_at_the_first_visible_attempt_or_takes_the_clearest(contrasts: list[float]) -> None:
    factors: list[float] = []

    def draw(denser: float) -> tuple[int, Float32]:
        factors.append(denser)
        return len(factors) - 1, np.full((1, 1), len(factors) - 1, np.float32)

    chosen = until_visible(draw, lambda soft: contrasts[int(soft[0, 0])])
    visible = [at for at, contrast in enumerate(contrasts) if contrast >= LEAST]
    assert chosen == (visible[0] if visible else int(np.argmax(contrasts)))
    assert len(factors) == (visible[0] + 1 if visible else 6)
    assert factors[0] == 1.0 and factors == sorted(factors)


def test_where_the_film_is_not_known_the_first_attempt_stands() -> None:
    plan = FindingPlan(tb=(TbPattern.INFILTRATE,))
    assert taken_as_visible(NOTHING) == np.inf
    assert tuberculosis(plan, FIELD, np.random.default_rng(3)).tb_contrast == np.inf


def test_a_blind_spot_sends_the_finding_elsewhere() -> None:
    """Nothing shows in the upper right zone of this film; the lesions that would lie there are moved."""
    seeing = np.where(FIELD.zones == 1, 0, 1).astype(np.float32)
    anatomy = Surroundings.of(film(25.0), FIELD.lungs, PIXEL_MM)
    field = type(FIELD)(
        FIELD.lungs, FIELD.zones, FIELD.thickness, PIXEL_MM, lambda soft: anatomy.contrast(soft * seeing)
    )
    plan = FindingPlan(large=(LargePlan(30, 20, 0),), tb=(TbPattern.INFILTRATE, TbPattern.CAVITY))
    moved = 0
    for seed in range(8):
        drawn = tuberculosis(plan, field, np.random.default_rng(seed))
        first = tuberculosis(plan, FIELD, np.random.default_rng(seed))
        assert drawn.tb_contrast >= LEAST
        moved += drawn.opacities != first.opacities
    assert moved >= 2
    # A plan's large opacity stays in its zone: what cannot be seen there is recorded, not hidden.
    assert large_opacities(plan, field, np.random.default_rng(0)).large_contrast < LEAST


def test_in_real_films_a_reader_could_see_what_the_label_says(tmp_path: Path) -> None:
    hosts = read_films(host_list(tmp_path))
    plan = FindingPlan(large=(LargePlan(30, 20, 1),), tb=(TbPattern.FIBROSIS,))
    contrasts = []
    for seed, host in enumerate(hosts):
        rng = np.random.default_rng(seed)
        drawing = real_film(host, plan, sample_nuisance(rng), rng, rng).drawing
        contrasts += [drawing.large_contrast, drawing.tb_contrast]
    # One attempt alone reaches 2 in the mean on these coarse hosts of 128 pixels.
    assert min(contrasts) > 2.4 and np.mean(contrasts) > LEAST


def test_the_table_says_how_clear_findings_are(tmp_path: Path) -> None:
    settings = CohortSettings(num_films=12, seed=3, other_share=0.0)
    table = pl.read_parquet(build(tmp_path / "cohort", settings, workers=1))
    ill = table.filter(pl.col("tb") == 1)
    assert ill.height and (ill.filter(pl.col("tb_pattern") != "miliary")["tb_contrast"] > 0).all()
    assert (table.filter(pl.col("tb") == 0)["tb_contrast"] == 0).all()
    assert (table.filter(pl.col("large_long_mm") == 0)["large_contrast"] == 0).all()
