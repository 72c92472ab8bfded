"""Debian's Chromium without a window, driven through its own DevTools protocol: nothing but aiohttp is needed for it."""

import asyncio
import base64
import itertools
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

from tests.system.machine import program

_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--remote-debugging-port=0",
)  # fmt: skip
_SECONDS = 20.0
_POLL_SECONDS = 0.05
Json = dict[str, Any]


class Page:
    """One tab. `complaints` are what the browser logged as error or warning, `asked` every address it asked for."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.dialogs: list[str] = []
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Json]] = {}
        self._loaded = asyncio.Event()

    async def listen(self) -> None:
        """Read what the browser says until it ends."""
        async for message in self._socket:
            said = message.json()
            if "id" in said:
                self._answers.pop(said["id"]).set_result(said)
            else:
                self._heard(said["method"], said["params"])

    def _heard(self, event: str, said: Json) -> None:
        match event:
            case "Log.entryAdded" if said["entry"]["level"] in ("error", "warning"):
                self.complaints.append(f"{said['entry']['text']} {said['entry'].get('url', '')}")
            case "Runtime.consoleAPICalled" if said["type"] in ("error", "warning", "assert"):
                self.complaints.append(str(said["args"]))
            case "Runtime.exceptionThrown":
                self.complaints.append(str(said["exceptionDetails"]))
            case "Network.requestWillBeSent":
                self.asked.append(said["request"]["url"])
            case "Page.loadEventFired":
                self._loaded.set()
            case "Page.javascriptDialogOpening":
                self.dialogs.append(said["message"])

    async def call(self, method: str, **params: Any) -> Json:
        """One command of the protocol."""
        number = next(self._numbers)
        self._answers[number] = answer = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        async with asyncio.timeout(_SECONDS):
            said = await answer
        assert "error" not in said, (method, said["error"])
        result: Json = said["result"]
        return result

    async def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        said = await self.call(
            "Runtime.evaluate",
            expression=script,
            awaitPromise=True,
            returnByValue=True,
            allowUnsafeEvalBlockedByCSP=False,
        )
        assert "exceptionDetails" not in said, (script, said["exceptionDetails"])
        return said["result"].get("value")

    async def open(self, url: str) -> None:
        """Go there, and wait until it is loaded."""
        self._loaded.clear()
        await self.call("Page.navigate", url=url)
        async with asyncio.timeout(_SECONDS):
            await self._loaded.wait()

    async def until(self, script: str, *, seconds: float = _SECONDS) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + seconds
        while not await self.run(script):
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"in {seconds:g} s it was not so that {script}; complaints: {self.complaints}; the page says: "
                    + await self.run("document.body.innerText")
                )
            await _moment()

    async def look(self, *, width: int, scheme: str, height: int = 900) -> None:
        """Be a screen of that many points, light or dark; a narrow one is a telephone's."""
        scale = 2 if width < 600 else 1
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        await self.call("Emulation.setEmulatedMedia", features=features)

    async def keep_picture(self, path: Path) -> None:
        """A picture of the whole page, as PNG."""
        await self.run("scrollTo(0, 0)")
        size = (await self.call("Page.getLayoutMetrics"))["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = await self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    async def press(self, key: str, code: int) -> None:
        """One key, down and up."""
        typed = {"text": "\r"} if key == "Enter" else {}
        for kind, text in (("keyDown", typed), ("keyUp", {})):
            await self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text
            )


async def _moment() -> None:
    done = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(_POLL_SECONDS, lambda: done.done() or done.set_result(None))
    await done


@asynccontextmanager
async def browsing(folder: Path) -> AsyncIterator[Page]:
    """A fresh browser with one tab, its profile in `folder`; it is gone after the block."""
    command = (program("chromium"), *_FLAGS, f"--user-data-dir={folder}", "about:blank")
    with (
        (folder.parent / "chromium.log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as process,
    ):
        try:
            async with (
                aiohttp.ClientSession() as session,
                _tab(session, await _port(folder, process)) as page,
            ):
                yield page
                with suppress(ConnectionError):
                    await page.call("Browser.close")
        finally:
            process.terminate()


async def _port(folder: Path, process: subprocess.Popen[bytes]) -> int:
    """Where it listens, once it does."""
    file, deadline = folder / "DevToolsActivePort", time.monotonic() + _SECONDS
    while not (file.exists() and file.read_text("utf-8").count("\n")):
        assert process.poll() is None, "Chromium ended at once"
        assert time.monotonic() < deadline, "Chromium does not start"
        await _moment()
    return int(file.read_text("utf-8").splitlines()[0])


@asynccontextmanager
async def _tab(session: aiohttp.ClientSession, port: int) -> AsyncIterator[Page]:
    async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
        (tab,) = [one for one in await answer.json() if one["type"] == "page"]
    async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
        page = Page(socket)
        async with asyncio.TaskGroup() as group:
            listening = group.create_task(page.listen())
            for domain in ("Page", "Runtime", "Log", "Network"):
                await page.call(f"{domain}.enable")
            yield page
            listening.cancel()


def browse(folder: Path, story: Callable[[Page], Any]) -> None:
    """Run a coroutine of a story in a fresh browser."""

    async def run() -> None:
        async with browsing(folder / "chromium") as page:
            await story(page)

    try:
        asyncio.run(run())
    except ExceptionGroup as group:
        raise group.exceptions[0] from None  # the story's own, which is all that can fail in there
