"""The report benchmark runs and measures; its figures are printed by `python -m bench.report_scale`."""

import pytest

from bench.report_scale import measure


@pytest.mark.bench
def test_the_benchmark_measures_a_small_campaign() -> None:
    cost = measure(400, num_pictures=5)
    assert cost.num_studies == 400
    assert cost.seconds > 0
    assert 50_000_000 < cost.peak_bytes < 2_000_000_000
    assert 500_000 < cost.page_bytes < 15_000_000
