"""A headless Chromium that does what lines of JSON on its standard input say. It runs in an environment of its own, which needs
PyQt6-WebEngine only (`make test-browser`); the tests drive it through `Browser`, which needs nothing.

Commands: {"do": "open", "url"}, {"do": "js", "code"} (the value of an expression), {"do": "size", "width", "height"},
{"do": "key", "key"} (a real key press: "Tab", "Return", "Space", or a character), {"do": "shot", "path"}. Each is answered by a line:
{"value": …} or {"error": …}. Dark or light is chosen at the start, as a setting of the browser: --dark.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


class Browser:
    """`with Browser(python) as page:`, where `python` is the interpreter of the browser's environment."""

    def __init__(self, python: Path, dark: bool = False):
        self.command = [str(python), __file__, *(["--dark"] if dark else [])]

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        if self._read() != "ready":
            raise RuntimeError(f"The browser did not start: run {' '.join(self.command)} by hand to see why.")
        return self

    def __exit__(self, *exc: object) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def ask(self, do: str, **more: Any) -> Any:
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"do": do, **more}) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self._read() or '{"error": "the browser has ended"}')
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["value"]

    def _read(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def open(self, url: str) -> None:
        self.ask("open", url=url)

    def js(self, code: str) -> Any:
        return self.ask("js", code=code)

    def wait(self, code: str, seconds: float = 60) -> Any:
        """The value of an expression, once it is true."""
        until = time.monotonic() + seconds
        while not (value := self.js(code)):
            if time.monotonic() > until:
                raise AssertionError(f"Not within {seconds} s: {code}\nThe page says: {self.js('document.body.innerText')}")
            time.sleep(0.1)
        return value

    def click(self, selector: str) -> None:
        """Clicks what the selector finds, once it is there and enabled."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.wait(f"!!{found} && !{found}.disabled")
        self.js(f"{found}.click()")

    def type(self, selector: str, text: str) -> None:
        """Types into a field by real keys, after what stands there is gone."""
        field = f"document.querySelector({json.dumps(selector)})"
        self.wait(f"!!{field}")
        self.js(f"{field}.focus(); {field}.select()")
        for key in text:
            self.ask("key", key=key)


def main() -> None:
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    os.environ["QTWEBENGINE_DISABLE_SANDBOX"] = "1"
    scheme = 0 if "--dark" in sys.argv else 1
    os.environ["QTWEBENGINE_CHROMIUM_FLAGS"] = (
        f"--no-sandbox --disable-gpu --blink-settings=preferredColorScheme={scheme} --no-proxy-server --disable-background-networking"
    )
    from PyQt6.QtCore import QEvent, QEventLoop, QSocketNotifier, Qt, QTimer, QUrl
    from PyQt6.QtGui import QKeyEvent
    from PyQt6.QtWebEngineWidgets import QWebEngineView
    from PyQt6.QtWidgets import QApplication

    app = QApplication(sys.argv[:1])
    view = QWebEngineView()
    view.resize(1280, 900)
    view.show()
    page = view.page()

    def until(start: Any) -> Any:
        """What `start` hands to the function that it is given."""
        loop, found = QEventLoop(), []
        start(lambda value=None: (found.append(value), loop.quit()))
        if not found:
            QTimer.singleShot(60_000, loop.quit)
            loop.exec()
        if not found:
            raise TimeoutError("no answer within a minute")
        return found[0]

    def pause(ms: int) -> None:
        until(lambda done: QTimer.singleShot(ms, done))

    def opened(url: str) -> None:
        def start(done: Any) -> None:
            view.loadFinished.connect(done, Qt.ConnectionType.SingleShotConnection)
            view.load(QUrl(url))

        if not until(start):
            raise RuntimeError(f"{url} did not load")

    def pressed(key: str) -> None:
        codes = {"Tab": Qt.Key.Key_Tab, "Return": Qt.Key.Key_Return, "Space": Qt.Key.Key_Space, "Down": Qt.Key.Key_Down}
        code, text = (codes[key], {"Return": "\r", "Space": " "}.get(key, "")) if key in codes else (Qt.Key(ord(key.upper())), key)
        target = view.focusProxy() or view
        target.setFocus()
        for kind in (QEvent.Type.KeyPress, QEvent.Type.KeyRelease):
            app.sendEvent(target, QKeyEvent(kind, code, Qt.KeyboardModifier.NoModifier, text))
        pause(15)

    def carried_out(c: dict) -> Any:
        match c["do"]:
            case "open":
                return opened(c["url"])
            case "js":
                code = f"JSON.stringify(eval({json.dumps(c['code'])}) ?? null)"
                return json.loads(until(lambda done: page.runJavaScript(code, done)) or '"an exception in the page"')
            case "size":
                view.resize(c["width"], c["height"])
                return pause(400)
            case "key":
                return pressed(c["key"])
            case "shot":
                pause(600)
                return view.grab().save(c["path"])
        raise ValueError(f"no command {c['do']!r}")

    def heard() -> None:
        line = sys.stdin.readline()
        if not line:
            return app.quit()
        try:
            answer = {"value": carried_out(json.loads(line))}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)

    ears = QSocketNotifier(sys.stdin.fileno(), QSocketNotifier.Type.Read)
    ears.activated.connect(heard)
    print("ready", flush=True)
    app.exec()


if __name__ == "__main__":
    main()
