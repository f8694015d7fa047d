"""The status page of a real mount in a real browser: true under load, harmless, for everybody, and in trouble."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from threading import Event
from typing import Any

import pytest
from axe_core_python.selenium import Axe
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from tests.browser import Browser, chromium
from tests.faults import Fault, Kind
from tests.mounting import Mount, directory, mounted
from tests.proxy import Proxy, in_front_of
from tests.servers import S3Server, free_port
from tests.t4_mount.faulty_bucket import BUCKET, bucket_server
from tests.t4_mount.modes import wait_until
from tests.t4_mount.test_api import TOKEN, plan_of

pytestmark = pytest.mark.mount

MIB = 1 << 20
#: Would run if it became markup anywhere; what follows would turn the rest of the line around.
EVIL = "<img src=x onerror=\"document.title='owned'\">\u202e\x1b[31m"
LONG = "a-directory-with-a-rather-long-name/" * 4 + "x" * 150
FLAGS = (
    *("--auto-archive", "--policy-interval", "1h", "--max-retries", "0", "--timeout", "3s", "--lease", "1h"),
    *("--breaker-failures", "2", "--breaker-pause", "1s", "--settle", "0s"),
)
#: Figures that never go down.
TOTALS = ("store_io.bytes_uploaded", "store_io.bytes_downloaded", "cache.hits", "cache.misses")
FIGURES = """
const figures = [...document.querySelectorAll("data[data-of^=status][value]")];
return Object.fromEntries(figures.map((one) => [one.dataset.of.slice("status.".length), Number(one.value)]));
"""
FITS = "return document.documentElement.scrollWidth <= innerWidth"
FOCUSABLE = "a[href], button, select, input, summary, [tabindex='0']"
FOCUSED = """
const one = document.activeElement, style = getComputedStyle(one);
return [[...document.querySelectorAll(arguments[0])].indexOf(one), style.outlineStyle, parseFloat(style.outlineWidth)];
"""


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with bucket_server() as server:
        yield server


@contextmanager
def staged(server: S3Server) -> Iterator[tuple[Mount, Proxy]]:
    """A mount with the API, whose store is behind a proxy; files with names that a page could stumble over."""
    with directory() as home, in_front_of(server) as proxy:
        prices = home / "prices.toml"
        prices.write_text('date = "2026-01"\nssd_gb_month = 0.1\n')
        address = f"127.0.0.1:{free_port()}"  # that of the next worker, too
        plan = plan_of(home, "--endpoint-url", proxy.url, "--prices", str(prices), *FLAGS, address=address)
        with mounted(replace(plan, store=f"s3://{BUCKET}/{home.name}")) as mount:
            try:
                (mount.path / LONG).parent.mkdir(parents=True)
                for name in (EVIL, LONG):
                    (mount.path / name).write_bytes(b"x" * 300_000)
                    os.utime(mount.path / name, (1, 1))
                mount.make_cold(mount.path / "cold", os.urandom(3 * MIB))
                yield mount, proxy
            finally:
                proxy.heal()


def show(browser: Browser, mount: Mount) -> str:
    """The page, as who types the address of the mount gets it: the origin."""
    address = mount.status()["api"]
    browser.get(f"http://operator:{TOKEN}@{address}/")
    Select(browser.driver.find_element(By.ID, "pace")).select_by_value("1")
    wait_for_answers(browser, 1)
    return f"http://{address}/"


def answers(browser: Browser) -> int:
    return int(browser.run("return document.documentElement.dataset.answers ?? 0"))


def wait_for_answers(browser: Browser, more: int) -> None:
    """Wait until so many more answers were shown."""
    enough = answers(browser) + more
    browser.wait(lambda: answers(browser) >= enough, "an answer")


def text_of(browser: Browser, selector: str) -> str:
    return str(browser.run("return document.querySelector(arguments[0]).innerText", selector))


def figure(status: Any, dotted: str) -> float | None:
    for name in dotted.split("."):
        status = status[name]
    return None if status is None else float(status)


def work(mount: Mount, is_over: Event, number: int) -> None:
    """Read cold bytes, write and archive, until told."""
    while not is_over.is_set():
        (mount.path / "cold").read_bytes()
        mount.evict()
        (mount.path / f"made-{number}").write_bytes(os.urandom(50_000))
        mount.archive(f"made-{number}")


def is_agreed(browser: Browser, mount: Mount) -> bool:
    """Whether all that the page shows of the status is what the status is."""
    shown, status = browser.run(FIGURES), mount.status()
    assert shown.pop("runway.free_bytes") > 0  # others write to that disk all the time
    assert len(shown) > 15
    return all(figure(status, name) == value for name, value in shown.items())


def test_the_page_shows_what_status_says_under_load(server: S3Server) -> None:
    """Each total is between what `status` says before and afterwards; all is the same when nothing goes on."""
    with chromium() as browser, staged(server) as (mount, _):
        origin = show(browser, mount)
        is_over = Event()
        with ThreadPoolExecutor(2) as pool:
            working = [pool.submit(work, mount, is_over, number) for number in range(2)]
            try:
                for _ in range(2):
                    before = mount.status()
                    wait_for_answers(browser, 2)  # the first may have been asked for before
                    shown, after = browser.run(FIGURES), mount.status()
                    for name in TOTALS:
                        values = [figure(before, name), shown[name], figure(after, name)]
                        assert values == sorted(values, key=float), (name, values)
            finally:
                is_over.set()
        for one in working:
            one.result()
        browser.wait(lambda: is_agreed(browser, mount), "the page to say what status says")
        assert browser.run("return document.documentElement.dataset.asOfNs") is not None
        browser.run("document.getElementById('reckon').click()")
        browser.wait(lambda: "onerror" in text_of(browser, "[data-table=candidates]"), "the plan")
        browser.wait(lambda: "a month" in text_of(browser, "#savings-words"), "the cost")
        mount.archive(EVIL)
        browser.wait(lambda: "onerror" in text_of(browser, "[data-table=events]"), "the event")
        assert "owned'\">\\u{202e}\\x1b[31m" in text_of(browser, "[data-table=events]")
        assert browser.run("return [document.images.length, document.title.includes('owned')]") == [0, False]
        asked = {url.replace(f"operator:{TOKEN}@", "") for url in browser.requested()}
        assert len(asked) > 10
        assert {url for url in asked if not url.startswith(origin)} == set()
        assert browser.complaints() == []


def check_look(browser: Browser, width: int, scheme: str) -> None:
    """Nothing is wider than the window; contrast, names, roles and heads of tables are as axe-core wants them."""
    browser.shape(width, 844, scheme)
    assert browser.run(FITS)
    is_dark = browser.run("return getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] < 128")
    assert is_dark == (scheme == "dark")
    found = Axe().run(browser.driver)
    assert [(one["id"], one["nodes"][0]["html"]) for one in found["violations"]] == []


def check_keyboard(browser: Browser) -> None:
    """Tab leads to everything in the order in which it stands there, and one sees where one is."""
    browser.run("document.activeElement.blur(); getSelection().removeAllRanges(); scrollTo(0, 0)")
    visible = "return [...document.querySelectorAll(arguments[0])].filter((one) => one.checkVisibility()).length"
    count = browser.run(visible, FOCUSABLE)
    assert count >= 10
    reached = []
    for _ in range(count):
        browser.driver.switch_to.active_element.send_keys(Keys.TAB)
        index, style, width = browser.run(FOCUSED, FOCUSABLE)
        assert (style, width >= 2) == ("solid", True)
        reached.append(index)
    assert reached == sorted(set(reached))
    browser.run("document.querySelector('.chart.hot svg').focus()")
    before = text_of(browser, ".chart.hot .legend")
    browser.driver.switch_to.active_element.send_keys(Keys.HOME)
    assert text_of(browser, ".chart.hot .legend") != before


def test_the_page_is_for_everybody(server: S3Server) -> None:
    """At a desk and on a phone, light and dark, by keyboard, for who is read to."""
    with chromium() as browser, staged(server) as (mount, _):
        show(browser, mount)
        (mount.path / "cold").read_bytes()
        mount.archive(LONG, EVIL)
        wait_for_answers(browser, 2)
        browser.wait(lambda: "onerror" in text_of(browser, "[data-table=events]"), "the event")
        for width, scheme in ((1280, "light"), (390, "dark")):
            check_look(browser, width, scheme)
        browser.shape(360, 640, "dark")
        assert browser.run(FITS)
        check_keyboard(browser)
        Select(browser.driver.find_element(By.ID, "theme")).select_by_value("light")
        show(browser, mount)  # it is remembered, on a dark system too
        assert browser.run("return getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] > 128")


def test_the_page_says_what_is_wrong_and_goes_on(server: S3Server) -> None:
    """The bucket is away, then it is back; the worker is killed, and the next one is asked; then nobody answers."""

    def verdict() -> str:
        return text_of(browser, "#verdict-live")

    def bucket() -> str:
        return text_of(browser, "#checks li:nth-child(2)")

    with chromium() as browser:
        with staged(server) as (mount, proxy):
            show(browser, mount)
            browser.wait(lambda: verdict().startswith("OK"), "all to be well")
            proxy.order(Fault(Kind.REFUSE))
            for _ in range(2):
                assert mount.outcomes("archive", LONG)[0].result == "failed"
            browser.wait(lambda: verdict().startswith("TROUBLE") and "Bucket: " in verdict(), "the trouble to be seen")
            assert "TROUBLE" in bucket()
            proxy.heal()
            wait_until(lambda: mount.outcomes("archive", LONG)[0].result != "failed")
            browser.wait(lambda: "OK" in bucket(), "the bucket to be seen again")
            pid = mount.kill_worker()
            mount.wait_taken_over(pid)
            mine = mount.status()["worker_pid"]
            browser.wait(lambda: browser.run(FIGURES).get("worker_pid") == mine, "the next worker")
            assert "a worker ended once" in text_of(browser, "#checks")
        browser.wait(lambda: verdict().startswith("NO ANSWER"), "the silence to be seen")
        assert "Not answered since" in verdict()
        assert "was OK: serves" in text_of(browser, "#checks")
