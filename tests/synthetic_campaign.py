"""One simulated campaign and its report, made once per test process."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from bench.synthetic_campaign import SyntheticCampaign, write_campaign
from screener.report import analyse, build_report
from screener.report_content import ReportContent
from screener.report_settings import ReportSettings

ACCURACY = """{
  "stage_ge_1": {"sensitivity": 0.9, "num_diseased": 400, "specificity": 0.95, "num_healthy": 800},
  "tb": {"sensitivity": 0.9, "num_diseased": 200, "specificity": 0.97, "num_healthy": 800}
}
"""


@functools.cache
def shared_campaign() -> SyntheticCampaign:
    """2,500 studies, with roster, readings, key and 40 pictures."""
    place = Path(tempfile.mkdtemp(prefix="screener-test-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    made = write_campaign(place / "campaign", num_studies=2500, seed=3, prevalence=0.12, num_pictures=40)
    (place / "accuracy.json").write_text(ACCURACY)
    return made


def settings_for(campaign: SyntheticCampaign, output: Path, **changes: object) -> ReportSettings:
    """Settings that use everything the simulation offers."""
    given: dict[str, object] = {
        "campaign": campaign.folder,
        "output": output,
        "roster": campaign.roster,
        "readings": campaign.readings,
        "accuracy": campaign.folder.parent / "accuracy.json",
        "key_file": campaign.key_file,
        "bootstrap_samples": 200,
    }
    return ReportSettings(**(given | changes))  # type: ignore[arg-type]


@functools.cache
def shared_report() -> Path:
    """The report folder of the shared campaign."""
    campaign = shared_campaign()
    return build_report(settings_for(campaign, campaign.folder.parent / "report", hive=True)).folder


@functools.cache
def shared_content() -> ReportContent:
    """The same report before it is written."""
    campaign = shared_campaign()
    return analyse(settings_for(campaign, campaign.folder.parent / "unused"))
