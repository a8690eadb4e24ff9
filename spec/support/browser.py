"""Drives one headless chromium by the lines of its standard input, and says what it saw:

    python3 spec/support/browser.py FOLDER <<'END'
    open URL            in a new tab, which the next lines are about
    tab NUMBER          back to an earlier tab, from 1
    wait CODE           until this JavaScript is true, at most 20 seconds
    say CODE            its value as a line of JSON
    key NAME            press Tab, Shift+Tab, Enter, ArrowLeft, ...
    type TEXT
    size WIDTH HEIGHT
    colours dark|light
    shot FILE           a PNG of what is in the window; `whole FILE` of the whole page
    reload
    run COMMAND         by the shell; its output as a line of JSON
    END

FOLDER is chromium's own and is made. The exit status is 0 if all went well; else the last line says what did not. The
browser ends with this program. It speaks with it by a pipe: no port is opened."""

import base64
import json
import os
import select
import signal
import subprocess
import sys
import time

PATIENCE = 20
KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "PageUp": 33, "PageDown": 34, "End": 35, "Home": 36,
        "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}


class Browser:
    def __init__(self, folder):
        theirs_in, self.out = os.pipe()
        self.into, theirs_out = os.pipe()
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
                   "--disable-component-update", "--disable-sync", "--no-first-run", "--hide-scrollbars",
                   "--remote-debugging-pipe", "--user-data-dir=" + folder, "about:blank"]
        self.process = subprocess.Popen(
            ["sh", "-c", "exec chromium \"$@\" 3<&%d 4>&%d" % (theirs_in, theirs_out), "sh"] + options,
            pass_fds=(theirs_in, theirs_out), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True)
        os.close(theirs_in)
        os.close(theirs_out)
        self.rest, self.number, self.tabs, self.session, self.problems = b"", 0, [], None, []

    def receive(self, until):
        while b"\0" not in self.rest:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self.into], [], [], left)[0]:
                raise RuntimeError("the browser does not answer")
            piece = os.read(self.into, 1 << 16)
            if not piece:
                raise RuntimeError("the browser has gone")
            self.rest += piece
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, session=None, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if session or self.session:
            message["sessionId"] = session or self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + PATIENCE
        while True:
            answer = self.receive(until)
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError("%s: %s" % (method, answer["error"]["message"]))
                return answer["result"]
            self.note(answer)

    def note(self, event):
        if event.get("method") == "Runtime.exceptionThrown":
            details = event["params"]["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description", details["text"]))
        elif event.get("method") == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
            self.problems.append(event["params"]["entry"]["text"])

    def open(self, url):
        self.session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.tabs.append(self.session)
        for domain in ("Runtime", "Page", "Log"):
            self.call(domain + ".enable")
        self.call("Page.navigate", url=url)

    def value(self, code):
        result = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            details = result["exceptionDetails"]
            raise RuntimeError(code + ": " + details.get("exception", {}).get("description", details["text"]))
        return result["result"].get("value")

    def wait(self, code):
        until = time.monotonic() + PATIENCE
        while True:
            try:
                if self.value(code):
                    return
            except RuntimeError as problem:  # while a page is being loaded
                if time.monotonic() > until:
                    raise problem
            if time.monotonic() > until:
                raise RuntimeError("not within %d seconds: %s" % (PATIENCE, code))
            time.sleep(0.05)

    def key(self, name):
        shift = name.startswith("Shift+")
        name = name[6:] if shift else name
        name = " " if name == "Space" else name
        key = {"key": name, "modifiers": 8 if shift else 0}
        if name in KEYS:
            key.update(code="Space" if name == " " else name, windowsVirtualKeyCode=KEYS[name])
        text = {"Enter": "\r", " ": " "}.get(name, name if len(name) == 1 else None)
        self.call("Input.dispatchKeyEvent", type="keyDown", **key, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **key)

    def shot(self, file, whole):
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        with open(file, "wb") as out:
            out.write(base64.b64decode(data))

    def size(self, width, height):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                  mobile=False)

    def close(self):
        try:
            self.session = None
            self.call("Browser.close")
            self.process.wait(5)
        except (RuntimeError, OSError, subprocess.TimeoutExpired):
            pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


def do(browser, line):
    verb, _, rest = line.partition(" ")
    if verb == "open":
        browser.open(rest)
    elif verb == "tab":
        browser.session = browser.tabs[int(rest) - 1]
    elif verb == "wait":
        browser.wait(rest)
    elif verb == "say":
        print(json.dumps(browser.value(rest), ensure_ascii=False), flush=True)
    elif verb == "key":
        browser.key(rest)
    elif verb == "type":
        browser.call("Input.insertText", text=rest)
    elif verb == "size":
        browser.size(*map(int, rest.split()))
    elif verb == "colours":
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": rest}])
    elif verb in ("shot", "whole"):
        browser.shot(rest, verb == "whole")
    elif verb == "reload":
        browser.call("Page.reload")
    elif verb == "run":
        print(json.dumps(subprocess.run(rest, shell=True, capture_output=True, text=True, timeout=60).stdout),
              flush=True)
    elif verb == "problems":
        print(json.dumps(browser.problems, ensure_ascii=False), flush=True)
    else:
        raise RuntimeError("no such step: " + line)


def main():
    browser = Browser(sys.argv[1])
    try:
        for line in sys.stdin:
            if line.strip():
                do(browser, line.strip())
    except (RuntimeError, OSError, subprocess.SubprocessError) as problem:
        print("problem: %s %s" % (problem, browser.problems), flush=True)
        return 1
    finally:
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
