"""A headless Chromium that is talked to through a pipe: no driver, no port, no package."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--mute-audio",
    "--no-first-run", "--disable-extensions", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
)  # fmt: skip
PATIENCE = 60
"""Seconds until an answer is given up."""
PAGE = "performance.timeOrigin"
"""Tells a page from the one before it."""


class NavigatedError(Exception):
    """The page that was asked has gone."""


def found() -> str | None:
    """The browser's program, if there is one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page of a browser that speaks the DevTools protocol on file descriptors 3 and 4."""

    def __init__(self, program: str, profile: Path) -> None:
        # High numbers, so that neither is in the way of the other in the child.
        asks, self.ask = (_high(one) for one in os.pipe())
        self.answer, answers = (_high(one) for one in os.pipe())

        def wire() -> None:
            os.dup2(asks, 3)
            os.dup2(answers, 4)

        self.process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(3, 4), preexec_fn=wire, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(asks)
        os.close(answers)
        self.rest, self.numbers, self.session = b"", itertools.count(1), None
        self.complaints: list[str] = []
        """What the pages wrote to the console as warnings and errors, or threw, or did not find."""
        pages = self.call("Target.getTargets")["targetInfos"]
        target = next(one["targetId"] for one in pages if one["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its result."""
        number = next(self.numbers)
        body = {"id": number, "method": method, "params": params}
        body |= {"sessionId": self.session} if self.session else {}
        os.write(self.ask, json.dumps(body).encode() + b"\0")
        while True:
            message = self._message()
            if message.get("id") == number:
                if "navigated" in message.get("error", {}).get("message", ""):
                    raise NavigatedError
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]

    def _message(self) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.answer], [], [], deadline - time.monotonic())
            part = os.read(self.answer, 1 << 20) if ready else b""
            assert part, "the browser does not answer"
            self.rest += part
        text, self.rest = self.rest.split(b"\0", 1)
        message = json.loads(text)
        self._note(message)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        method, params = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.complaints.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if not url.startswith(("file:", "data:", "about:")):
                self.complaints.append(f"asked for {url}")
        elif method == "Network.loadingFailed" and not params.get("canceled"):
            self.complaints.append(f"could not load: {params['errorText']}")

    def look(self, width: int, height: int, *, dark: bool = False, scripts: bool = True) -> None:
        """How big the window is, which colours are preferred, and whether scripts run."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)

    def open(self, path: Path) -> None:
        """Show a file and wait until it is loaded."""
        before = self.ask_page(PAGE)
        self.call("Page.navigate", url=path.resolve().as_uri())
        self._settled(before)

    def follow(self, expression: str) -> None:
        """Click on a link to another page and wait until that is loaded."""
        before = self.ask_page(PAGE)
        self.click(expression)
        self._settled(before)

    def _settled(self, before: float) -> None:
        """Wait until a page other than an earlier one is loaded."""
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(NavigatedError):  # between the two pages
                now = self.ask_page(f"document.readyState == 'complete' && {PAGE}")
                if now not in (False, before):
                    return
            assert time.monotonic() < deadline, "the page does not load"
            time.sleep(0.02)

    def ask_page(self, expression: str) -> Any:
        """The value of a JavaScript expression on the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release a key: Tab or Enter."""
        code = {"Tab": 9, "Enter": 13}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", **common, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def click(self, expression: str) -> None:
        """Click with the mouse into the middle of the element that an expression gives."""
        self.ask_page(f"({expression}).scrollIntoView({{block: 'center'}})")
        box = self.ask_page(f"(({expression}).getBoundingClientRect()).toJSON()")
        at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **at)

    def picture(self, *, whole: bool = False) -> bytes:
        """The window, or the whole page, as PNG."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(shot["data"])

    def close(self) -> None:
        """End the browser."""
        with contextlib.suppress(OSError, AssertionError):
            self.session = None
            self.call("Browser.close")
        os.close(self.ask)
        os.close(self.answer)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _high(number: int) -> int:
    """The same open file under a number from 10 on."""
    try:
        return fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 10)
    finally:
        os.close(number)


@contextlib.contextmanager
def browsing(profile: Path) -> Iterator[Browser]:
    """A browser that is closed again; there must be one (see `found`)."""
    program = found()
    assert program is not None
    browser = Browser(program, profile)
    try:
        yield browser
    finally:
        browser.close()
