"""Numbers and codes to the words and digits of the page, as Jinja filters.

A figure that is suppressed reads `< 5`, one that was not computed reads `–`: the two must never look alike.
"""

from __future__ import annotations

from markupsafe import Markup, escape

from screener.page.translations import PAGE, Language, Text, label

NOT_COMPUTED = "–"


def both(text: Text) -> Markup:
    """Both languages of a text; the page shows one."""
    return Markup('<span class="t-en" lang="en">{}</span><span class="t-zh" lang="zh-Hans">{}</span>').format(
        text.en, text.zh
    )


def say(key: str, **values: object) -> Markup:
    """A text of the page by key, its places filled in (a `Text` in its own language)."""

    def fill(language: Language) -> Markup:
        spoken = {
            name: value.say(language) if isinstance(value, Text) else value for name, value in values.items()
        }
        return escape(PAGE[key].say(language)).format(**spoken)

    return both(Text(fill("en"), fill("zh")))


def code(value: object, prefix: str = "") -> Markup:
    """The words for a code."""
    return both(label(f"{prefix}{value}"))


def attribute(key: str) -> Markup:
    """Both languages as `data-en` and `data-zh`, for attributes that the script sets."""
    text = PAGE[key]
    return Markup('data-en="{}" data-zh="{}"').format(text.en, text.zh)


def count(value: int | None, *, suppressed: bool = False, min_cell: int = 5) -> Markup:
    """A count with thousands separators."""
    if value is None:
        return escape(f"< {min_cell}" if suppressed else NOT_COMPUTED)
    return escape(f"{value:,}")


def percent(value: float | None, digits: int = 1) -> str:
    """A share as percent."""
    return NOT_COMPUTED if value is None else f"{100 * value:.{digits}f} %"


def span(low: float | None, high: float | None, digits: int = 1) -> str:
    """An interval of shares in percent."""
    if low is None or high is None:
        return NOT_COMPUTED
    return f"{100 * low:.{digits}f}–{100 * high:.{digits}f} %"


def decimal(value: float | None, digits: int = 2) -> str:
    """A number that is not a share, such as kappa."""
    return NOT_COMPUTED if value is None else f"{value:.{digits}f}"
