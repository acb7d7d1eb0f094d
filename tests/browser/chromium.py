"""Drives a headless Chromium for tests, over its DevTools protocol, with aiohttp and nothing else.

async with Chromium(mic_file=Path("hello.wav")) as browser:
    await browser.goto("http://127.0.0.1:8080/")
    await browser.wait_for("window.orch.phase === 'LISTENING'")
"""

import asyncio
import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import tempfile
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import aiohttp

Microphone = Literal["fake", "denied", "none"]

START_S = 30.0
ANSWER_S = 60.0
CLOSE = aiohttp.ClientWSTimeout(ws_close=1.0)  # a browser that hangs is killed, not waited for
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # containers have no user namespaces for it, and the pages are our own
    "--disable-gpu",
    "--disable-quic",
    "--disable-breakpad",  # its crash handler leaves the process group, and would outlive us
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--autoplay-policy=no-user-gesture-required",
    "--allow-loopback-in-peer-connection",  # a sandbox may have no other interface
    "--remote-debugging-port=0",
)
MICROPHONE_FLAGS: dict[Microphone, tuple[str, ...]] = {
    "fake": ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
    "denied": ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream=deny"),
    "none": ("--use-fake-ui-for-media-stream",),
}
# With no acoustic path from loudspeaker to fake microphone, Chromium's echo canceller takes the microphone for echo
# and silences most of what it says while the agent speaks. A test of barge-in needs it off.
RAW_MICROPHONE_JS = """{
  const open = MediaDevices.prototype.getUserMedia;
  const raw = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  MediaDevices.prototype.getUserMedia = function () { return open.call(this, { audio: raw }); };
}"""
# Polling stays inside the page: no round trips, and nothing is missed between two looks.
WAIT_JS = """new Promise((resolve, reject) => {
  const until = performance.now() + %d;
  const look = () => {
    const value = (%s);
    if (value) resolve(value);
    else if (performance.now() > until) reject(new Error("still not true"));
    else setTimeout(() => { try { look(); } catch (error) { reject(error); } }, 5);
  };
  look();
})"""


class BrowserError(Exception):
    """The browser, or the page in it, could not do what was asked."""


def chromium_path() -> str | None:
    """The Chromium to use: ORCH_CHROMIUM if it is set, else the first known name on PATH, else None."""
    if chosen := os.environ.get("ORCH_CHROMIUM"):
        return shutil.which(chosen)
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    return next(filter(None, map(shutil.which, names)), None)


class Chromium:
    """One browser with one page, a fresh profile and a microphone of the test's choice.

    `mic_file` is a WAV that the fake microphone plays once, then silence (without it, Chromium's beeps); `microphone`
    may also be `denied` (the user refuses) or `none` (there is none); `raw_microphone` turns the browser's processing
    of it off, echo canceller included, whatever the page asks for. `console` holds what the page logged, its
    uncaught exceptions and what the browser complained about, as (level, text).
    """

    def __init__(
        self,
        *,
        mic_file: Path | None = None,
        microphone: Microphone = "fake",
        raw_microphone: bool = False,
        flags: tuple[str, ...] = (),
    ) -> None:
        mic_flag = () if mic_file is None else (f"--use-file-for-fake-audio-capture={mic_file}%noloop",)
        self._flags = (*FLAGS, *MICROPHONE_FLAGS[microphone], *mic_flag, *flags)
        self._raw_microphone = raw_microphone
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._loaded = asyncio.Event()
        self._chooser: asyncio.Future[int] = asyncio.Future()
        self._stderr: deque[str] = deque(maxlen=50)
        self._stack = contextlib.AsyncExitStack()
        self._page_session = ""
        self.console: list[tuple[str, str]] = []

    async def __aenter__(self) -> Self:
        try:
            async with asyncio.timeout(START_S):
                await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def goto(self, url: str) -> None:
        """Opens a page and waits until it has loaded, modules included."""
        self._loaded.clear()
        if problem := (await self.command("Page.navigate", url=url)).get("errorText"):
            raise BrowserError(f"{url} did not open: {problem}")
        async with asyncio.timeout(ANSWER_S):
            await self._loaded.wait()

    async def evaluate(self, js: str) -> Any:
        """The value of a JavaScript expression; waits for it if it is a promise."""
        answer = await self.command(
            "Runtime.evaluate", expression=js, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if problem := answer.get("exceptionDetails"):
            raise BrowserError(problem.get("exception", {}).get("description") or problem["text"])
        return answer["result"].get("value")

    async def wait_for(self, js_condition: str, timeout_s: float = 10.0) -> Any:
        """Waits until a JavaScript expression is true, and gives its value."""
        try:
            return await self.evaluate(WAIT_JS % (timeout_s * 1000, js_condition))
        except BrowserError as error:
            seen = "\n".join(f"  {level}: {text}" for level, text in self.console[-10:])
            raise BrowserError(f"{js_condition}: {error} (after at most {timeout_s} s)\n{seen}") from error

    async def click(self, selector: str) -> None:
        """Clicks an element as a user would: it must be visible, and nothing may lie above it."""
        quoted = json.dumps(selector)
        where = await self.evaluate(
            f"(() => {{ const element = document.querySelector({quoted});"
            " element.scrollIntoView({block: 'center'}); const box = element.getBoundingClientRect();"
            " const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];"
            " return element.contains(document.elementFromPoint(x, y)) ? {x, y} : null; })()"
        )
        if where is None:
            raise BrowserError(f"{selector} cannot be clicked: it is hidden or covered")
        for step in ("mousePressed", "mouseReleased"):
            await self.command("Input.dispatchMouseEvent", type=step, button="left", clickCount=1, **where)

    async def press(self, key: str, text: str = "") -> None:
        """Presses a key, such as `Escape` or `Enter` (whose text is a carriage return)."""
        codes = {"Enter": 13, "Escape": 27, "Tab": 9, "Home": 36, "End": 35, "ArrowLeft": 37, "ArrowRight": 39, " ": 32}
        codes |= {"ArrowUp": 38, "ArrowDown": 40}
        code = {"windowsVirtualKeyCode": codes[key]} if key in codes else {}
        await self.command("Input.dispatchKeyEvent", type="keyDown", key=key, text=text, **code)
        await self.command("Input.dispatchKeyEvent", type="keyUp", key=key, **code)

    async def press_and_load(self, key: str, text: str = "") -> None:
        """Presses a key that leads to another page, and waits until that has loaded."""
        self._loaded.clear()
        await self.press(key, text)
        async with asyncio.timeout(ANSWER_S):
            await self._loaded.wait()

    async def type_text(self, text: str) -> None:
        """Types into whatever has the focus."""
        await self.command("Input.insertText", text=text)

    async def drop(self, *files: Path) -> None:
        """Drags files from the desktop onto the middle of the page."""
        data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
        for step in ("dragEnter", "dragOver", "drop"):
            await self.command("Input.dispatchDragEvent", type=step, x=200, y=200, data=data)

    async def choose_file(self, key: str, file: Path) -> None:
        """Presses a key that opens the dialogue for files, and chooses one."""
        await self.command("Page.setInterceptFileChooserDialog", enabled=True)
        self._chooser = asyncio.get_running_loop().create_future()
        await self.press(key, "\r" if key == "Enter" else "")
        async with asyncio.timeout(ANSWER_S):
            node = await self._chooser
        await self.command("DOM.setFileInputFiles", files=[str(file)], backendNodeId=node)
        await self.command("Page.setInterceptFileChooserDialog", enabled=False)

    async def view(self, width: int, height: int, *, dark: bool = False) -> None:
        """Sets the size of the window and the colour scheme that the user prefers."""
        await self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.command("Emulation.setEmulatedMedia", features=[scheme])

    async def screenshot(self, path: Path) -> None:
        """Writes what the window shows as a PNG."""
        answer = await self.command("Page.captureScreenshot", format="png")
        await asyncio.to_thread(path.write_bytes, base64.b64decode(answer["data"]))

    async def command(self, method: str, **params: Any) -> dict[str, Any]:
        """Sends one DevTools command to the page and gives its result; raises BrowserError."""
        return await self._command(method, params, self._page_session)

    async def _command(self, method: str, params: dict[str, Any], session: str = "") -> dict[str, Any]:
        number = next(self._ids)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": params}
        await self._socket.send_json(message | ({"sessionId": session} if session else {}))
        try:
            async with asyncio.timeout(ANSWER_S):
                result = await answer
        finally:
            self._answers.pop(number, None)
        if problem := result.get("error"):
            raise BrowserError(f"{method}: {problem['message']}")
        return dict(result["result"])

    async def _start(self) -> None:
        if (program := chromium_path()) is None:
            raise BrowserError("no Chromium found: install one, or name it in ORCH_CHROMIUM")
        profile = tempfile.mkdtemp(prefix="orch-chromium-")
        self._stack.callback(shutil.rmtree, profile, ignore_errors=True)
        process = await asyncio.create_subprocess_exec(
            program,
            *self._flags,
            f"--user-data-dir={profile}",
            "about:blank",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self._stack.push_async_callback(_kill, process)
        address = await self._address(process)
        client = await self._stack.enter_async_context(aiohttp.ClientSession())
        self._socket = await self._stack.enter_async_context(client.ws_connect(address, max_msg_size=0, timeout=CLOSE))
        self._background(self._drain(process))
        self._background(self._read())
        targets = (await self._command("Target.getTargets", {}))["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        attached = await self._command("Target.attachToTarget", {"targetId": page, "flatten": True})
        self._page_session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            await self.command(f"{domain}.enable")
        if self._raw_microphone:
            await self.command("Page.addScriptToEvaluateOnNewDocument", source=RAW_MICROPHONE_JS)

    def _background(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._stack.callback(task.cancel)

    async def _address(self, process: asyncio.subprocess.Process) -> str:
        """The address that Chromium prints once it listens."""
        assert process.stderr is not None
        async for raw in process.stderr:
            line = raw.decode(errors="replace").strip()
            self._stderr.append(line)
            if "DevTools listening on " in line:
                return line.split("DevTools listening on ")[1]
        raise BrowserError("Chromium ended before it listened:\n" + "\n".join(self._stderr))

    async def _drain(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        async for raw in process.stderr:
            self._stderr.append(raw.decode(errors="replace").strip())

    async def _read(self) -> None:
        async for message in self._socket:
            data = json.loads(message.data)
            if "id" in data:
                answer = self._answers.get(data["id"])
                if answer and not answer.done():
                    answer.set_result(data)
            else:
                self._notice(data["method"], data["params"])
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(BrowserError("Chromium went away:\n" + "\n".join(self._stderr)))

    def _notice(self, method: str, params: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded.set()
        elif method == "Page.fileChooserOpened":
            self._chooser.set_result(params["backendNodeId"])
        elif method == "Runtime.consoleAPICalled":
            words = (str(item.get("value", item.get("description", ""))) for item in params["args"])
            self.console.append((params["type"], " ".join(words)))
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.console.append(("exception", details.get("exception", {}).get("description", details["text"])))
        elif method == "Log.entryAdded":
            self.console.append((params["entry"]["level"], params["entry"]["text"]))


async def _kill(process: asyncio.subprocess.Process) -> None:
    """Kills the browser with all its helpers: the profile is thrown away, so there is nothing to close in peace."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
