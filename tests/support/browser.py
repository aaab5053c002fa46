"""A page in Chromium, headless, by the DevTools protocol."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

CHROMIUM = shutil.which("chromium")
_WAIT_S = 60


class Page:
    """A page that has been opened."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._number = 0
        self._num_loaded = 0
        self.console: list[str] = []
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Calls a method of the protocol, and keeps what the page says meanwhile."""
        self._number += 1
        asked = {"id": self._number, "method": method, "params": parameters}
        self._connection.send(json.dumps(asked))
        while True:
            answer = json.loads(self._connection.recv(_WAIT_S))
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self._hear(answer)

    def _hear(self, event: dict[str, Any]) -> None:
        found = event["params"]
        if event["method"] == "Runtime.exceptionThrown":
            self.console.append(found["exceptionDetails"]["text"])
        elif event["method"] == "Page.loadEventFired":
            self._num_loaded += 1
        elif event["method"] == "Log.entryAdded" and found["entry"]["level"] == "error":
            self.console.append(found["entry"]["text"])

    def open(self, address: str) -> None:
        """Opens an address, and waits until all of it is loaded."""
        num_loaded = self._num_loaded
        self.call("Page.navigate", url=address)
        while self._num_loaded == num_loaded:
            self._hear(json.loads(self._connection.recv(_WAIT_S)))

    def value(self, expression: str) -> Any:
        """Evaluates a JavaScript expression."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait_for(self, expression: str, is_found: Callable[[Any], bool] = bool) -> Any:
        """Evaluates an expression until its value is as wanted."""
        deadline_s = time.monotonic() + _WAIT_S
        while not is_found(value := self.value(expression)):
            assert time.monotonic() < deadline_s, (expression, value)
            time.sleep(0.02)
        return value

    def type(self, text: str) -> None:
        """Types a text into what has the focus."""
        self.call("Input.insertText", text=text)

    def press(self, key: str, code: int) -> None:
        """Presses a key that writes nothing."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
            )


@contextmanager
def open_browser(folder: Path) -> Iterator[Page]:
    """Starts a browser with a new profile in a folder, and ends it."""
    assert CHROMIUM is not None
    process = subprocess.Popen(
        [
            CHROMIUM,
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-dev-shm-usage", "--disable-background-networking"),
            *("--disable-component-update", "--no-proxy-server"),
            *("--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with connect(_address(process, folder), proxy=None, max_size=None) as socket:
            yield Page(socket)
    finally:
        process.terminate()
        process.wait()


def _address(process: subprocess.Popen[bytes], folder: Path) -> str:
    """Waits for the browser's port, and returns the address of its page."""
    written = folder / "DevToolsActivePort"
    deadline_s = time.monotonic() + _WAIT_S
    while True:
        assert process.poll() is None, "the browser has ended"
        assert time.monotonic() < deadline_s, "the browser does not answer"
        if written.exists() and (lines := written.read_text().splitlines()):
            url = f"http://127.0.0.1:{lines[0]}/json/list"
            for target in httpx.get(url, trust_env=False).json():
                if target["type"] == "page":
                    return target["webSocketDebuggerUrl"]
        time.sleep(0.05)
