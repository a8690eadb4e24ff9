"""Pictures of the classic notebook, half way and at the end: notebook.png and notebook-end.png.

    mantichora jupyter install --prefix P; JUPYTER_PATH=P/share/jupyter python3 scripts/screens/notebook.py [FOLDER]

Needs Debian's jupyter-notebook and chromium. A headless browser runs the cells of the quick start and is
told what to do by its DevTools protocol.
"""

import asyncio
import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

from tornado.websocket import websocket_connect

HERE = os.path.dirname(os.path.abspath(__file__))
EXAMPLE = os.path.join(HERE, "..", "examples", "02_quick_start.ipynb")
WIDTH, HEIGHT = 1000, 900


def until(look, seconds, what):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(0.1)
    sys.exit("notebook.py: waited in vain for " + what)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_server(folder):
    log = open(os.path.join(folder, "server.log"), "w+")
    server = subprocess.Popen(
        [sys.executable, "-m", "notebook", "--no-browser", "--allow-root", "--port=%d" % free_port(),
         "--NotebookApp.token=", "--NotebookApp.password=", "--notebook-dir=" + folder],
        stdout=log, stderr=log, env=dict(os.environ, JUPYTER_RUNTIME_DIR=os.path.join(folder, "runtime")))

    def address():
        for name in os.listdir(folder + "/runtime") if os.path.isdir(folder + "/runtime") else []:
            if name.startswith("nbserver-") and name.endswith(".json"):
                with open(os.path.join(folder, "runtime", name)) as file:
                    return json.load(file)["url"]
        return None

    return server, until(address, 20, "the notebook's server")


def start_browser(folder):
    profile = os.path.join(folder, "profile")
    browser = subprocess.Popen(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
         "--user-data-dir=" + profile, "--window-size=%d,%d" % (WIDTH, HEIGHT), "about:blank"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def port():
        try:
            with open(os.path.join(profile, "DevToolsActivePort")) as file:
                return int(file.readline())
        except (OSError, ValueError):
            return None

    number = until(port, 20, "the browser")

    def page():
        with urllib.request.urlopen("http://127.0.0.1:%d/json" % number) as answer:
            pages = [target for target in json.load(answer) if target["type"] == "page"]
        return pages and pages[0]["webSocketDebuggerUrl"]

    return browser, until(page, 10, "the browser's page")


class Page:
    def __init__(self, socket):
        self.socket, self.number = socket, 0

    async def call(self, method, **parameters):
        self.number += 1
        await self.socket.write_message(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(await self.socket.read_message())
            if message.get("id") == self.number:
                return message["result"]

    async def ask(self, expression):
        return (await self.call("Runtime.evaluate", expression=expression))["result"].get("value")

    async def wait(self, expression, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if await self.ask(expression):
                return
            await asyncio.sleep(0.05)
        raise SystemExit("notebook.py: waited in vain for " + expression)

    async def shoot(self, path):
        data = (await self.call("Page.captureScreenshot", format="png"))["data"]
        with open(path, "wb") as file:
            file.write(base64.b64decode(data))


async def take(address, debugger, to):
    page = Page(await websocket_connect(debugger, max_message_size=1 << 28))
    await page.call("Page.navigate", url=address + "notebooks/quick_start.ipynb")
    await page.wait("!!(window.Jupyter && Jupyter.notebook && Jupyter.notebook.kernel"
                    " && Jupyter.notebook.kernel.is_connected() && Jupyter.notebook._fully_loaded)", 30)
    await page.ask("Jupyter.notebook.clear_all_output(); Jupyter.notebook.execute_all_cells();")
    # Three bars have ended, and others run.
    await page.wait("document.body.innerText.split('100.00%').length > 3", 30)
    await page.ask("document.querySelector('#site').scrollTop = 400")
    await page.shoot(os.path.join(to, "notebook.png"))
    await page.wait("document.body.innerText.includes('result1, result2, result3, result4, result5, result6')", 30)
    await page.shoot(os.path.join(to, "notebook-end.png"))


def main():
    to = sys.argv[1] if len(sys.argv) > 1 else HERE
    folder = tempfile.mkdtemp()
    shutil.copy(EXAMPLE, os.path.join(folder, "quick_start.ipynb"))
    started = []
    try:
        server, address = start_server(folder)
        started.append(server)
        browser, debugger = start_browser(folder)
        started.append(browser)
        asyncio.run(take(address, debugger, to))
    finally:
        for process in reversed(started):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
        shutil.rmtree(folder, ignore_errors=True)


main()
