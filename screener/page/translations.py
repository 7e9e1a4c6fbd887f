"""Every text of the page in English and Chinese, from `assets/texts.json`.

`PAGE` holds the page's own sentences (`{name}` is filled in), `CODES` the words for codes of the tables.
Chinese terms are those of GBZ 70: 尘肺病, 壹期 贰期 叁期. Questionable: *referred* is 建议复查, advice to
have the film read by qualified readers, because a screening may neither diagnose nor suggest that it does;
every finding carries 疑似 (suspected).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from typing import Literal

from screener import INTENDED_USE

Language = Literal["en", "zh"]


@dataclass(frozen=True, slots=True)
class Text:
    """One text in both languages."""

    en: str
    zh: str

    def say(self, language: Language) -> str:
        """The text in one language."""
        return self.en if language == "en" else self.zh


def asset(name: str) -> str:
    """A text file of the page's assets."""
    return resources.files("screener.page").joinpath("assets", name).read_text("utf-8")


_TEXTS: dict[str, dict[str, list[str]]] = json.loads(asset("texts.json"))

PAGE = {key: Text(*both) for key, both in _TEXTS["page"].items()}
"""Texts of the page itself, by key."""
PAGE["intended_use"] = Text(INTENDED_USE, PAGE["intended_use"].zh)

CODES = {code: Text(*both) for code, both in _TEXTS["codes"].items()}
"""Words by code. Codes whose words depend on where they stand have a prefix (`stage_0`, `step_referred`)."""


def label(code: str) -> Text:
    """The words for a code; a code without words (a site's name) stands for itself.

    An unreadable film's reasons are its quality flags with the prefix `quality_`.
    """
    known = CODES.get(code) or CODES.get(code.removeprefix("quality_"))
    return known or Text(code, code)
