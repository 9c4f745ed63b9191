"""The page in headless Chromium: no script, no request, no error, no sideways scroll; readable when printed."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from vestige.report import write_report

from .sample import HOSTILE, sample_report


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory, chromium: Any) -> Any:
    """The sample report in a browser."""
    folder = tmp_path_factory.mktemp("page")
    write_report(sample_report(), folder)
    for log in ("browser", "performance"):
        chromium.get_log(log)
    chromium.get((folder / "report.html").as_uri())
    return chromium


def _resize(driver: Any, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def _open_all(driver: Any) -> None:
    driver.execute_script("for (const e of document.querySelectorAll('details')) e.open = true")


def test_nothing_ran_and_nothing_was_asked_for(driver: Any) -> None:
    _open_all(driver)
    entries = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in entries if e["method"] == "Network.requestWillBeSent"]
    assert asked, "the log must hold at least the page itself"
    # Chromium's own start page asks for chrome:// pages before ours is opened.
    outside = [url for url in asked if not url.startswith(("data:", "chrome://"))]
    assert outside == [driver.current_url]
    assert driver.get_log("browser") == []
    assert driver.execute_script("return typeof window.pwned") == "undefined"


def test_model_output_is_visible_as_text(driver: Any) -> None:
    shown = driver.execute_script("return [...document.querySelectorAll('.said')].map(e => e.textContent)")
    assert any(HOSTILE[:31] in text for text in shown)
    assert (
        driver.execute_script("return document.querySelectorAll('script, img, main b:not(.num, td > b)').length") == 0
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 360, 390, 736, 800, 1280])
def test_no_sideways_scroll(driver: Any, width: int, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "screen", "features": features})
    _resize(driver, width)
    _open_all(driver)
    wide, inner = driver.execute_script("return [document.scrollingElement.scrollWidth, innerWidth]")
    assert inner == width
    assert wide <= inner


def test_wide_tables_scroll_in_their_own_box(driver: Any) -> None:
    _resize(driver, 360)
    box = "document.querySelector('#numbers .scroll')"
    held, visible = driver.execute_script(f"return [{box}.scrollWidth, {box}.clientWidth]")
    assert held > visible
    left = f"{box}.scrollLeft = 200; return {box}.querySelector('tbody th[scope=row]').getBoundingClientRect().left"
    assert 0 <= driver.execute_script(left) < 40, "the name of the check stays in view"


def test_dark_and_light_differ(driver: Any) -> None:
    seen = []
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "screen", "features": features})
        seen.append(driver.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert seen == ["rgb(246, 246, 243)", "rgb(18, 23, 26)"]


def test_headings_and_landmarks(driver: Any) -> None:
    titles = driver.execute_script("return [...document.querySelectorAll('h1, h2')].map(e => e.textContent)")
    assert titles[0].startswith("After being made to forget")
    assert titles[1:] == [
        "At a glance",
        "Verdicts",
        "All numbers",
        "Under attack",
        "Layer by layer",
        "Concept vectors",
        "Edited latents",
        "Example answers",
        "How to read each number",
        "Provenance",
    ]
    assert driver.execute_script("return document.querySelectorAll('main, nav, footer, body > header').length") == 4
    spoken = "return [...document.querySelectorAll('svg[role=img]')].every(e => e.getAttribute('aria-label'))"
    assert driver.execute_script(spoken)


def test_a_link_to_an_explanation_opens_it(driver: Any) -> None:
    driver.execute_script("for (const e of document.querySelectorAll('#guide details')) e.open = false")
    driver.execute_script("document.querySelector('.numbers tbody th a').click()")
    assert driver.execute_script("return document.querySelector('#guide details').open")


def test_print_shows_everything_on_white(driver: Any) -> None:
    driver.execute_script("for (const e of document.querySelectorAll('details')) e.open = false")
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    # A4 landscape inside its margins is about 1047 CSS pixels wide: the main table has to fit.
    _resize(driver, 1047)
    state = driver.execute_script(
        """return {
            paper: getComputedStyle(document.body).backgroundColor,
            nav: getComputedStyle(document.querySelector('nav')).display,
            closed: [...document.querySelectorAll('details .inside')].map(e => e.getBoundingClientRect().height),
            table: document.querySelector('.numbers').scrollWidth,
        }"""
    )
    assert state["paper"] == "rgb(255, 255, 255)"
    assert state["nav"] == "none"
    assert min(state["closed"]) > 20
    assert state["table"] <= 1047
    pdf = base64.b64decode(driver.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"])
    assert pdf.startswith(b"%PDF")


def test_the_page_is_small(tmp_path: Path) -> None:
    write_report(sample_report(), tmp_path)
    assert (tmp_path / "report.html").stat().st_size < 250_000


def test_the_page_of_edited_latents_opens(driver: Any) -> None:
    report = driver.current_url
    driver.execute_script("document.querySelector('#latents a').click()")
    assert driver.title.startswith("Vestige features: What ")
    assert driver.execute_script("return document.querySelectorAll('article').length") == 2
    driver.get(report)
