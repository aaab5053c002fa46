"""The page in a real browser: it streams an answer, shows stages, and survives a restart."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmpq_jax.server.state import ServerState
from tests.server.conftest import NAME, running
from tests.support.browser import CHROMIUM, Page, open_browser

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"),
]

_STATE = "document.getElementById('state').textContent"
_ANSWER = "document.querySelector('.message:last-child').lastChild.textContent"
_IS_DONE = "!document.getElementById('send').disabled"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with open_browser(tmp_path_factory.mktemp("browser") / "profile") as found:
        yield found


def _ask(page: Page, text: str) -> list[str]:
    """Types a message and Enter; returns the answer as it was seen to grow."""
    page.value("document.getElementById('text').focus()")
    page.type(text)
    page.press("Enter", 13)
    seen: list[str] = []
    while not page.value(_IS_DONE):
        if (shown := page.value(_ANSWER)) and shown not in seen:
            seen.append(shown)
    return [*seen, page.value(_ANSWER)]


def test_an_answer_streams_and_stages_are_shown(state: ServerState, page: Page) -> None:
    with running(state) as address:
        page.open(address)
        page.wait_for(_STATE, "serving".__eq__)
        assert page.value("document.getElementById('model').textContent") == NAME
        page.value("document.getElementById('tokens').value = 150")
        seen = _ask(page, "hello")
        assert seen[-1]
        assert len(set(seen)) > 1
        assert all(seen[-1].startswith(each) for each in seen)
        rows = page.wait_for(
            "[...document.querySelectorAll('#stages tr')].map(row => row.innerText)"
        )
        assert len(rows) == 1
        assert rows[0].startswith("node0/cpu:0\t0–3\t")
        busy = "document.querySelector('#stages meter').value"
        assert 0 < page.wait_for(busy, lambda value: value > 0) <= 1
        assert "of 4 slots in use" in page.value(
            "document.getElementById('requests').textContent"
        )
    assert page.console == []


def test_it_fits_a_phone(state: ServerState, page: Page) -> None:
    with running(state) as address:
        page.call(
            "Emulation.setDeviceMetricsOverride",
            width=360,
            height=740,
            deviceScaleFactor=2,
            mobile=True,
        )
        page.open(address)
        page.wait_for(_STATE, "serving".__eq__)
        assert page.value("document.documentElement.scrollWidth") <= 360
        # Keys reach every control, in the order of the page.
        reached = []
        page.value("document.body.focus()")
        for _ in range(8):
            page.press("Tab", 9)
            reached.append(page.value("document.activeElement.id"))
        assert reached[:6] == [
            "messages",
            "text",
            "temperature",
            "tokens",
            "send",
            "clear",
        ]
        page.call("Emulation.clearDeviceMetricsOverride")


def test_it_survives_a_restart_of_the_server(state: ServerState, page: Page) -> None:
    with running(state) as address:
        page.open(address)
        page.wait_for(_STATE, "serving".__eq__)
        page.value("document.getElementById('tokens').value = 8")
        first = _ask(page, "one")[-1]
    assert page.wait_for(_STATE, lambda text: text != "serving") == (
        "no server: trying again"
    )
    port = int(address.rpartition(":")[2])
    with running(state, port=port):
        page.wait_for(_STATE, "serving".__eq__)
        # The conversation is still there, and goes on.
        messages = "document.querySelectorAll('.message').length"
        assert page.value(messages) == 2
        assert _ask(page, "two")[-1]
        assert page.value(messages) == 4
        shown = page.value("document.getElementById('messages').textContent")
        assert first in shown
