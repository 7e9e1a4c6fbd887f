"""The picture's last word: a screened film, or not a frontal chest radiograph after all.

Conservative on purpose. A picture is rejected only if the frontal check and the lung mask both say no and
the header does not insist that it is a frontal chest film. Otherwise it is screened, and what is doubtful
makes it unreadable: it is referred, never lost as a negative.
"""

from __future__ import annotations

import math

from screener.decide import refer
from screener.errors import Reason
from screener.quality import FRONTAL_LOGIT
from screener.records import Decision, Instance, LungGeometry, Quality, Rejection, ScreenedImage, Source

FRONTAL_VIEWS = frozenset({"PA", "AP"})


def conclude(
    source: Source, geometry: LungGeometry, quality: Quality, frontal_logit: float, decision: Decision
) -> ScreenedImage | Rejection:
    """Combine what the steps found out about one film.

    Args:
        source: the film.
        geometry: lung areas and whether the mask is plausible.
        quality: grade and flags.
        frontal_logit: log-odds that the picture is a frontal chest radiograph.
        decision: calibrated probabilities; its referral is raised where the quality demands it.
    """
    is_frontal = frontal_logit >= FRONTAL_LOGIT
    if not is_frontal and not geometry.mask_valid and not _header_insists(source.instance):
        detail = "neither the frontal check nor the lung mask finds a frontal chest radiograph"
        return Rejection(
            source.entry, Reason.NOT_FRONTAL_CHEST, detail, "picture", source.identity, source.instance
        )
    p_frontal = 1 / (1 + math.exp(-max(-60.0, min(60.0, frontal_logit))))
    return ScreenedImage(source, geometry, quality, p_frontal, refer(decision, quality))


def _header_insists(instance: Instance) -> bool:
    return instance.body_part == "chest" and instance.view_position in FRONTAL_VIEWS
