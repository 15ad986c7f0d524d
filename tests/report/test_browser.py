"""The report in a real browser: it opens without an error, sorts, filters, plays, and goes with its sweep."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, DRIVER, Browser
from selenium.webdriver import Keys
from served import Served
from written import hostile

from rayconvai.analysis.report import write_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs a browser: apt-get install chromium chromium-driver"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("browser"))
    yield browser
    browser.driver.quit()


@pytest.fixture(scope="module")
def page(large: Path) -> str:
    return Path(write_report(large)).as_uri()


def see_all(browser: Browser) -> None:
    """Go through the page, so that every plot is drawn."""
    for area in range(browser.do("return document.querySelectorAll('.area').length")):
        browser.do("document.querySelectorAll('.area')[arguments[0]].scrollIntoView()", area)
        drawn = "return document.querySelectorAll('.area')[arguments[0]].data !== undefined"
        browser.wait_for(lambda at=area, drawn=drawn: browser.do(drawn, at))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [pytest.param(1366, id="laptop"), pytest.param(390, id="phone")])
def test_it_opens(browser: Browser, page: str, width: int, scheme: str) -> None:
    browser.look(width, 844, scheme)
    browser.open(page)
    see_all(browser)
    assert browser.complaints() == []
    assert browser.do("return document.documentElement.scrollWidth") <= width
    background = browser.do("return getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(246, 247, 249)", "dark": "rgb(18, 21, 26)"}[scheme]


def column(browser: Browser, key: str) -> list[str]:
    script = """
        const heads = [...document.querySelectorAll('#table th[data-key]')];
        const index = heads.findIndex(head => head.dataset.key === arguments[0]);
        const rows = [...document.querySelectorAll('#table tbody tr')].filter(row => !row.hidden);
        return rows.map(row => row.cells[index].textContent);"""
    return list(browser.do(script, key))


def sorted_by(browser: Browser) -> dict[str, str]:
    script = "return [...document.querySelectorAll('#table th[data-key]')].map(h => [h.dataset.key, h.ariaSort])"
    return {key: order for key, order in browser.do(script) if order != "none"}


def test_it_sorts(browser: Browser, page: str) -> None:
    browser.look(1366, 844)
    browser.open(page)
    assert sorted_by(browser) == {"rank": "ascending"}
    browser.do("document.querySelector('th[data-key=\"optim.lr\"] button').click()")
    assert sorted_by(browser) == {"optim.lr": "ascending"}
    rates = [float(text) for text in column(browser, "optim.lr")]
    assert rates == sorted(rates)
    button = browser.driver.find_element("css selector", "th[data-key='val_wer'] button")
    button.send_keys(" ")  # as a person without a mouse does it
    button.send_keys("\n")
    assert sorted_by(browser) == {"val_wer": "descending"}
    values = column(browser, "val_wer")
    known = [float(text) for text in values if text]
    assert known == sorted(known, reverse=True)
    assert 0 < len(known) < len(values)
    assert set(values[len(known) :]) == {""}  # what is missing comes last


def test_it_filters(browser: Browser, page: str) -> None:
    browser.look(1366, 844)
    browser.open(page)
    field = browser.driver.find_element("id", "filter")
    field.send_keys("lr<1e-3 muon")
    rates = [float(text) for text in column(browser, "optim.lr")]
    assert 0 < len(rates) < 200
    assert max(rates) < 1e-3
    assert set(column(browser, "optim")) == {"muon"}
    assert browser.texts("#shown") == [f"{len(rates)} of 200 trials"]
    field.send_keys(Keys.CONTROL + "a")
    field.send_keys("memory")
    assert set(column(browser, "state")) == {"infeasible"}
    field.send_keys(Keys.CONTROL + "a")
    field.send_keys(Keys.BACKSPACE)
    browser.do("const s = document.getElementById('state'); s.value = 'failed';"
               "s.dispatchEvent(new Event('input', {bubbles: true}))")  # fmt: skip
    assert set(column(browser, "state")) == {"failed"}


def test_it_plays(browser: Browser, page: str) -> None:
    browser.open(page)
    audio = "const audio = document.querySelector('#samples audio');"
    browser.do(audio + "audio.preload = 'auto'; audio.load()")
    browser.wait_for(lambda: browser.do(audio + "return audio.readyState >= 2"))
    assert browser.do(audio + "return audio.duration") == pytest.approx(1.5, abs=0.1)
    assert browser.do(audio + "return audio.play().then(() => true)")
    browser.wait_for(lambda: browser.do(audio + "return audio.currentTime > 0.2 || audio.ended"))
    assert browser.complaints() == []


def test_the_theme_can_be_chosen(browser: Browser, page: str) -> None:
    browser.look(1366, 844, "light")
    browser.open(page)
    dark = "return getComputedStyle(document.body).backgroundColor === 'rgb(18, 21, 26)'"
    assert not browser.do(dark)
    browser.driver.find_element("id", "theme").click()
    assert browser.do(dark)
    browser.driver.find_element("id", "theme").click()
    assert not browser.do(dark)


def test_what_data_says_does_nothing(browser: Browser, tmp_path: Path) -> None:
    browser.open(Path(write_report(hostile(tmp_path / "written").directory)).as_uri())
    see_all(browser)
    assert browser.do("return typeof hacked") == "undefined"
    assert browser.complaints() == []


def test_it_goes_with_its_sweep(browser: Browser, served: Served) -> None:
    browser.look(1366, 844)
    browser.open(served.url)
    browser.wait_for(lambda: "live, as of" in browser.texts("#live")[0])
    browser.driver.find_element("id", "filter").send_keys("finished")
    browser.do("document.querySelector('th[data-key=\"optim.lr\"] button').click();"
               "document.getElementById('trials').scrollIntoView()")  # fmt: skip
    scrolled = browser.do("return document.getElementById('trials').getBoundingClientRect().top")
    served.sweep.trial(3, {"optim.lr": 1e-3}, [0.01], "finished")
    browser.wait_for(lambda: "t0003" in column(browser, "trial"))
    assert "t0003, the best of 4 trials" in browser.texts("#summary")[0]
    assert sorted_by(browser) == {"optim.lr": "ascending"}
    assert browser.do("return document.getElementById('filter').value") == "finished"
    assert browser.do("return document.activeElement.id") == "filter"
    assert abs(browser.do("return document.getElementById('trials').getBoundingClientRect().top") - scrolled) < 2
    assert browser.complaints() == []
    served.end()
    browser.wait_for(lambda: "the server has gone" in browser.texts("#live")[0])
