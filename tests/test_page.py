"""The page in a real headless Chromium: no errors, filters and sorting work, numbers equal the Parquet."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from screener import INTENDED_USE
from screener.errors import Reason
from screener.page.translations import CODES, PAGE, asset, label
from screener.records import QualityFlag
from tests.synthetic_campaign import shared_report

INSTALL = "the page is tested in a browser: apt-get install chromium chromium-driver"
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,1000",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.fail(INSTALL)
    options = Options()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    yield chrome
    chrome.quit()


@pytest.fixture
def page(browser: WebDriver) -> WebDriver:
    browser.get((shared_report() / "report.html").as_uri())
    charts_drawn(browser, "en")
    return browser


def charts_drawn(browser: WebDriver, language: str) -> None:
    root = browser.find_element(By.TAG_NAME, "html")
    WebDriverWait(browser, 60).until(lambda _: root.get_attribute("data-charts") == language)


def log(page: WebDriver, kind: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page.get_log(kind)  # type: ignore[no-untyped-call] # selenium's is not typed
    return found


def table(name: str) -> pl.DataFrame:
    return pl.read_parquet(shared_report() / "tables" / f"{name}.parquet")


def cells(page: WebDriver, column: str) -> list[str]:
    found = page.find_elements(By.CSS_SELECTOR, f"#studies tbody td[data-column={column}]")
    return [cell.text for cell in found]


def shown(page: WebDriver) -> int:
    return int(page.find_element(By.ID, "shown").text.split()[0].replace(",", ""))


def value(element: WebElement, attribute: str = "data-value") -> float | None:
    text = element.get_attribute(attribute)
    return float(text) if text else None


def test_it_opens_from_a_file_without_errors_or_requests(page: WebDriver) -> None:
    problems = [entry for entry in log(page, "browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert problems == []
    events = [json.loads(entry["message"])["message"] for entry in log(page, "performance")]
    requested = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
        and event["params"]["documentURL"] == page.current_url
    ]
    assert page.current_url in requested, "the log does not hold what the page asked for"
    assert [url for url in requested if url != page.current_url and not url.startswith("data:")] == []


def test_the_file_refers_to_nothing_outside_itself() -> None:
    html = (shared_report() / "report.html").read_text(encoding="utf-8")
    tags = re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL)
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!#|data:)""", tags)
    assert "default-src 'none'" in tags
    assert len(html.encode()) < 15_000_000


def test_the_intended_use_stands_first(page: WebDriver) -> None:
    first = page.find_element(By.CSS_SELECTOR, "header > :first-child")
    assert first.text == INTENDED_USE
    assert first.location["y"] < 100


def test_every_chart_is_drawn_and_described(page: WebDriver) -> None:
    figures = page.find_elements(By.CSS_SELECTOR, "figure.chart:not([hidden])")
    assert len(figures) >= 12
    for figure in figures:
        svg = figure.find_element(By.CSS_SELECTOR, "svg")
        assert figure.find_elements(By.CSS_SELECTOR, "[aria-label]")
        assert svg.size["width"] > 150


def test_prevalence_on_the_page_equals_the_parquet(page: WebDriver) -> None:
    stored = {
        (row["dimension"], row["stratum"], row["outcome"]): row for row in table("prevalence").to_dicts()
    }
    script = """return [...document.querySelectorAll('[data-table=prevalence]')].flatMap(table =>
      [...table.tBodies[0].rows].map(row => [table.dataset.dimension, row.dataset.stratum,
        row.dataset.outcome, row.querySelector('[data-value]').dataset.value,
        row.querySelector('[data-value]').textContent,
        row.querySelector('[data-share]').dataset.share, row.querySelector('[data-share]').textContent]))"""
    rows = page.execute_script(script)
    assert len(rows) == len(stored)
    for dimension, stratum, outcome, count, count_text, share, share_text in rows:
        row = stored[dimension, stratum, outcome]
        if row["suppressed"]:
            assert (count, count_text, share, share_text) == ("", "< 5", "", "–")
        else:
            assert int(count) == int(count_text.replace(",", "")) == row["num_positive"]
            assert float(share) == row["prevalence"]
            assert share_text == f"{100 * row['prevalence']:.2f} %"


def test_the_flow_on_the_page_equals_the_parquet(page: WebDriver) -> None:
    stored = {(row["step"], row["unit"]): row["remaining"] for row in table("flow").to_dicts()}
    reasons = {
        (row["step"], row["reason"], row["unit"]): row["count"] for row in table("flow_reasons").to_dicts()
    }
    seen = 0
    for row in page.find_elements(By.CSS_SELECTOR, "[data-table=flow] tbody tr"):
        step, reason = row.get_attribute("data-step"), row.get_attribute("data-reason")
        for cell in row.find_elements(By.CSS_SELECTOR, "td[data-unit]"):
            unit = cell.get_attribute("data-unit")
            assert step and unit
            expected = reasons.get((step, reason, unit), 0) if reason else stored[step, unit]
            assert value(cell) == expected
            assert cell.text == f"{expected:,}"
            seen += 1
    assert seen == 3 * (8 + table("flow_reasons")["reason"].n_unique())


def test_the_summary_equals_the_parquet(page: WebDriver) -> None:
    overall = table("prevalence").filter(pl.col("dimension") == "overall")
    for card in page.find_elements(By.CSS_SELECTOR, ".card [data-outcome]"):
        row = overall.filter(pl.col("outcome") == card.get_attribute("data-outcome")).row(0, named=True)
        assert value(card) == row["num_positive"]
    referred = page.find_element(By.CSS_SELECTOR, "[data-figure=referred]")
    assert value(referred) == table("worklist").height == shown(page)


def test_filters_narrow_the_table_to_what_the_worklist_holds(page: WebDriver) -> None:
    worklist = table("worklist")
    Select(page.find_element(By.ID, "filter-referral")).select_by_value("priority")
    assert shown(page) == worklist.filter(pl.col("referral") == "priority").height
    assert set(cells(page, "referral")) == {"priority"}
    Select(page.find_element(By.ID, "filter-stage")).select_by_value("3")
    both = worklist.filter((pl.col("referral") == "priority") & (pl.col("stage_pred") == 3))
    assert shown(page) == both.height
    search = page.find_element(By.ID, "filter-text")
    search.send_keys(both["study_pid"][0][:12])
    assert cells(page, "study_pid") == [both["study_pid"][0]]
    search.send_keys("no such study")
    assert shown(page) == 0


def test_sorting_by_keyboard_orders_the_whole_list(page: WebDriver) -> None:
    worklist = table("worklist")
    page.find_element(By.CSS_SELECTOR, "[data-sort=p_tb]").send_keys(Keys.ENTER)
    highest = worklist["p_tb"].drop_nulls().sort(descending=True).head(25)
    assert [float(text) for text in cells(page, "p_tb")] == pytest.approx(highest.to_list(), abs=0.00506)
    header = page.find_element(By.CSS_SELECTOR, "th[aria-sort]")
    assert header.get_attribute("aria-sort") == "descending"
    assert page.switch_to.active_element.get_attribute("data-sort") == "p_tb"
    page.switch_to.active_element.send_keys(Keys.SPACE)
    lowest = worklist["p_tb"].drop_nulls().sort().head(25)
    assert [float(text) for text in cells(page, "p_tb")] == pytest.approx(lowest.to_list(), abs=0.00506)


def test_missing_values_sort_last_and_pages_turn(page: WebDriver) -> None:
    page.find_element(By.CSS_SELECTOR, "[data-sort=stage_before]").click()
    known = table("worklist")["stage_before"].drop_nulls().len()
    assert cells(page, "stage_before")[0] != "–"
    seen = [text for text in cells(page, "stage_before") if text != "–"]
    while page.find_element(By.ID, "next").is_enabled():
        page.find_element(By.ID, "next").click()
        seen += [text for text in cells(page, "stage_before") if text != "–"]
    assert len(seen) == known
    assert cells(page, "stage_before")[-1] == "–"


def test_a_picture_opens_by_keyboard_and_closes_with_escape(page: WebDriver) -> None:
    thumbs = page.find_elements(By.CSS_SELECTOR, "#studies .thumb")
    assert thumbs
    assert thumbs[0].get_attribute("aria-label")
    thumbs[0].send_keys(Keys.ENTER)
    dialog = page.find_element(By.ID, "enlarged")
    assert dialog.is_displayed()
    image = dialog.find_element(By.TAG_NAME, "img")
    WebDriverWait(page, 10).until(lambda _: image.get_property("naturalWidth") == 864)
    assert image.get_property("naturalHeight") == 288
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not dialog.is_displayed()


def test_the_page_speaks_chinese(page: WebDriver) -> None:
    page.find_element(By.ID, "language").click()
    charts_drawn(page, "zh")
    assert page.title == PAGE["title"].zh
    assert page.find_element(By.TAG_NAME, "html").get_attribute("lang") == "zh-Hans"
    assert page.find_element(By.CSS_SELECTOR, "header > :first-child").text == PAGE["intended_use"].zh
    body = page.find_element(By.TAG_NAME, "body").text
    for term in ("疑似尘肺病", "壹期", "贰期", "叁期", "建议复查", "优先复查", "检出率"):
        assert term in body
    assert PAGE["prevalence_note"].en not in body
    labels = [node.text for node in page.find_elements(By.CSS_SELECTOR, "[data-chart=stages] svg text")]
    assert {"壹期", "贰期", "叁期"} <= set(labels)
    severe = [entry for entry in log(page, "browser") if entry["level"] == "SEVERE"]
    assert severe == []


def colours(page: WebDriver) -> tuple[str, str]:
    style = "const style = getComputedStyle(document.body); return [style.backgroundColor, style.color]"
    background, ink = page.execute_script(style)
    return background, ink


def test_dark_follows_the_system_and_the_button(page: WebDriver) -> None:
    light = colours(page)
    page.find_element(By.ID, "theme").click()
    dark = colours(page)
    assert (
        sum(map(int, re.findall(r"\d+", dark[0])[:3])) < 120 < sum(map(int, re.findall(r"\d+", light[0])[:3]))
    )
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    page.refresh()
    charts_drawn(page, "en")
    assert colours(page) == dark
    axis = page.find_element(By.CSS_SELECTOR, "[data-chart=flow] svg text")
    assert axis.value_of_css_property("fill") == dark[1].replace("rgba", "rgb")
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": []})
    assert colours(page)[0] == "rgba(255, 255, 255, 1)" or colours(page)[0] == "rgb(255, 255, 255)"
    assert not page.find_element(By.ID, "filters").is_displayed()
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


def test_it_prints(page: WebDriver) -> None:
    printed = page.execute_cdp_cmd("Page.printToPDF", {"printBackground": False})
    assert len(printed["data"]) > 100_000


def test_every_control_has_a_name_and_every_table_headings(page: WebDriver) -> None:
    nameless = page.execute_script(
        """return [...document.querySelectorAll('button, select, input, summary')].filter(control =>
             !(control.labels && control.labels.length) && !control.getAttribute('aria-label')
             && !control.textContent.trim()).length"""
    )
    assert nameless == 0
    bare = page.execute_script(
        """return [...document.querySelectorAll('table')].filter(table =>
             !table.querySelector('th[scope=col]')).length"""
    )
    assert bare == 0
    levels = [int(heading.tag_name[1]) for heading in page.find_elements(By.CSS_SELECTOR, "h1, h2, main h3")]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_every_code_has_words_in_both_languages() -> None:
    from screener.decide import ReferralReason
    from screener.epidemiology.flow import Step
    from screener.epidemiology.outcomes import Outcome
    from screener.epidemiology.strata import Dimension

    codes = [*Reason, *QualityFlag, *ReferralReason, *Outcome, *Dimension, *Step]
    assert [str(code) for code in codes if str(code) not in CODES] == []
    assert label("quality_rotated") == CODES["rotated"]
    for text in (*PAGE.values(), *CODES.values()):
        assert text.en
        assert text.zh
        assert re.findall(r"{\w+}", text.en).sort() == re.findall(r"{\w+}", text.zh).sort()


def test_the_page_never_speaks_of_a_diagnosis_made() -> None:
    words = asset("texts.json").lower()
    assert "diagnosed" not in words
    assert "确诊" not in words


def test_pictures_that_are_not_ours_are_left_out(tmp_path: Path) -> None:
    from screener.page.referred import referred_studies

    worklist = table("worklist").head(3)
    for image_pid, content in zip(
        worklist["image_pid"], [b"<svg onload=alert(1)>", b"RIFF0000WEBPxxxx", b""], strict=True
    ):
        (tmp_path / f"{image_pid}.webp").write_bytes(content)
    assert list(referred_studies(worklist, tmp_path, 10).pictures) == [1]
    assert referred_studies(worklist, tmp_path, 0).pictures == {}
