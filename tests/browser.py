"""A headless Chromium, spoken to over its debugging pipe: no driver and no library is needed."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Self

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
"""The browser's program, or None if there is none."""


class Browser:
    """One browser with one page; use it as a context manager.

    Attributes:
        errors: what the page's scripts raised, or logged as an error, since it was opened.
    """

    def __init__(self) -> None:
        assert CHROMIUM is not None
        self.errors: list[str] = []
        self._profile = tempfile.mkdtemp(prefix="chromium-")
        read_here, write_there = os.pipe()
        read_there, write_here = os.pipe()

        def connect() -> None:
            # The browser reads commands from descriptor 3 and writes answers to 4.
            reading, writing = os.dup(read_there), os.dup(write_there)
            os.dup2(reading, 3)
            os.dup2(writing, 4)

        self._process = subprocess.Popen(
            [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
             "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
             f"--user-data-dir={self._profile}", "about:blank"],
            preexec_fn=connect,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(read_there)
        os.close(write_there)
        self._answers = os.fdopen(read_here, "rb")
        self._commands = os.fdopen(write_here, "wb")
        self._number = 0
        self._session: str | None = None
        self._seen: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._answers.close()
        self._commands.close()
        shutil.rmtree(self._profile, ignore_errors=True)

    def open(self, page: Path, *, width: int, dark: bool = False, media: str = "screen") -> None:
        """Open a file in a window so many pixels wide, and wait until it is drawn."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=900,
                   deviceScaleFactor=1, mobile=width < 600)  # fmt: skip
        self._call("Emulation.setScrollbarsHidden", hidden=True)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self._seen.clear()
        self._call("Page.navigate", url=page.resolve().as_uri())
        while "Page.loadEventFired" not in self._seen:
            self._receive()
        # Charts fit themselves to their frames in the frame after the next.
        self.ask("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")
        self.ask("new Promise(r => setTimeout(r, 300))")

    def ask(self, script: str) -> Any:
        """Return what an expression is in the page; a promise is waited for."""
        done = self._call("Runtime.evaluate", expression=script, returnByValue=True,
                          awaitPromise=True)  # fmt: skip
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def overflow(self) -> int:
        """Return by how many pixels the page is wider than its window."""
        root = "document.documentElement"
        return int(self.ask(f"{root}.scrollWidth - {root}.clientWidth"))

    def picture(self, path: Path) -> None:
        """Write a picture of the whole page, a PNG."""
        shot = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def pdf(self, path: Path) -> None:
        """Write the page as it is printed."""
        printed = self._call("Page.printToPDF", printBackground=True)
        path.write_bytes(base64.b64decode(printed["data"]))

    def _call(self, method: str, **parameters: object) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._commands.write(json.dumps(message).encode() + b"\0")
        self._commands.flush()
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return dict(answer["result"])

    def _receive(self) -> dict[str, Any]:
        """Return the browser's next message, and note what concerns the page."""
        text = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            assert byte, "the browser has ended"
            text += byte
        message: dict[str, Any] = json.loads(text)
        method, said = message.get("method", ""), message.get("params", {})
        self._seen.append(method)
        if method == "Runtime.exceptionThrown":
            details = said["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        if method == "Runtime.consoleAPICalled" and said["type"] == "error":
            self.errors.append(str(said["args"]))
        if method == "Log.entryAdded" and said["entry"]["level"] == "error":
            self.errors.append(said["entry"]["text"])
        return message
