"""Drives a kernel of Jupyter for the specs.

Reads a list of steps as JSON from stdin, does them one after the other with one kernel "mantichora", and
writes a list of what came of each as JSON to stdout. A step is an object with one of

    run: CODE           with interrupt: SECONDS after which the kernel is interrupted; input: list of lines
                        that are typed (null: the end of input); lasts: SECONDS to wait at the most
    complete: CODE      at its end
    inspect: CODE       at its end
    is_complete: CODE
    restart: NOW        true: by SIGKILL
    wait: SECONDS       collect what comes between cells
    all: true           the outputs of all cells as they are now

and gives status, outputs (list of lists: kind, MIME types and data, or text), seconds (from the interrupt
if there was one), updates (how often outputs were updated) and seen (all texts that displays had). The last result is a list of the processes
that are left a second after the kernel was shut down: "end": "kill" kills it, "busy" while a cell runs.
"""

import json
import os
import queue
import signal
import sys
import time
import uuid

from jupyter_client.manager import KernelManager

MARK = "MANTICHORA_NOTEBOOK_MARK"


def processes(mark):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/environ" % pid, "rb") as file:
                if ("%s=%s" % (MARK, mark)).encode() in file.read() and int(pid) != os.getpid():
                    with open("/proc/%s/cmdline" % pid, "rb") as file:
                        found.append(file.read().replace(b"\0", b" ").decode())
        except OSError:
            pass
    return [line for line in found if line]


class Outputs:
    """What a frontend would show."""

    def __init__(self):
        self.list, self.places, self.updates, self.seen = [], {}, 0, set()
        self.first = 0  # of this step

    def hear(self, message):
        kind, content = message["msg_type"], message["content"]
        if kind in ("display_data", "update_display_data"):
            self.seen.add(content["data"].get("text/plain"))
        if kind == "stream":
            if len(self.list) > self.first and self.list[-1][0] == content["name"]:
                self.list[-1][1] += content["text"]
            else:
                self.list.append([content["name"], content["text"]])
        elif kind in ("display_data", "execute_result"):
            self.list.append([kind, content["data"]])
            place = content.get("transient", {}).get("display_id")
            if place:
                self.places[place] = len(self.list) - 1
        elif kind == "update_display_data":
            place = content["transient"]["display_id"]
            self.updates += 1
            self.list[self.places[place]][1] = content["data"]
        elif kind == "error":
            self.list.append(["error", "\n".join(content["traceback"])])


class Driver:
    def __init__(self, mark):
        self.manager = KernelManager(kernel_name="mantichora")
        self.manager.start_kernel(env=dict(os.environ, **{MARK: mark}))
        self.outputs = Outputs()  # of all cells: a bar may be updated in a later one
        self.connect()

    def connect(self):
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=30)

    def listen(self, until, lasts):
        """Hear outputs until `until(message)` or for so many seconds; whether it came."""
        end = time.monotonic() + lasts
        while time.monotonic() < end:
            self.look()
            try:
                message = self.client.get_iopub_msg(timeout=0.02)
            except queue.Empty:
                continue
            self.outputs.hear(message)
            if until(message):
                return True
        return False

    def look(self):
        if self.interrupt is not None and time.monotonic() > self.interrupt:
            self.interrupt, self.interrupted = None, time.monotonic()
            self.manager.interrupt_kernel()
        if self.input:
            try:
                self.client.get_stdin_msg(timeout=0)
            except queue.Empty:
                return
            line = self.input.pop(0)
            self.client.input("\x04" if line is None else line)

    def forget_questions(self):
        """Of cells that have ended."""
        try:
            while True:
                self.client.get_stdin_msg(timeout=0)
        except queue.Empty:
            pass

    def run(self, step):
        first = self.outputs.first = len(self.outputs.list)
        updates = self.outputs.updates
        self.outputs.seen = set()
        began = time.monotonic()
        self.interrupted = None
        self.interrupt = began + step["interrupt"] if "interrupt" in step else None
        self.input = list(step.get("input", []))
        self.forget_questions()
        request = self.client.execute(step["run"], allow_stdin="input" in step, stop_on_error=False)

        def is_end(message):
            return (
                message["parent_header"].get("msg_id") == request
                and message["msg_type"] == "status"
                and message["content"]["execution_state"] == "idle"
            )

        ended = self.listen(is_end, step.get("lasts", 20))
        seconds = time.monotonic() - (self.interrupted or began)
        status = self.reply(request)["status"] if ended else "busy"
        return {
            "status": status,
            "outputs": self.outputs.list[first:],
            "seconds": seconds,
            "updates": self.outputs.updates - updates,
            "seen": sorted(text for text in self.outputs.seen if text),
        }

    def wait(self, step):
        first = self.outputs.first = len(self.outputs.list)
        self.interrupt, self.input = None, []
        self.listen(lambda message: False, step["wait"])
        return {"outputs": self.outputs.list[first:]}

    def all(self):
        return {"outputs": self.outputs.list}

    def reply(self, request):
        while True:
            message = self.client.get_shell_msg(timeout=10)
            if message["parent_header"].get("msg_id") == request:
                return message["content"]

    def do(self, step):
        if "run" in step:
            return self.run(step)
        if "wait" in step:
            return self.wait(step)
        if "all" in step:
            return self.all()
        if "complete" in step:
            return self.reply(self.client.complete(step["complete"]))
        if "inspect" in step:
            return self.reply(self.client.inspect(step["inspect"]))
        if "is_complete" in step:
            return self.reply(self.client.is_complete(step["is_complete"]))
        if "restart" in step:
            self.client.stop_channels()
            self.manager.restart_kernel(now=step["restart"])
            self.connect()
            return {}
        raise ValueError("unknown step: %r" % step)

    def end(self, how):
        if how == "kill":
            os.kill(self.manager.provisioner.pid, signal.SIGKILL)
        if how == "busy":
            self.client.execute("while true do end")
            self.listen(lambda message: message["msg_type"] == "execute_input", 10)
        self.client.stop_channels()
        self.manager.shutdown_kernel()


def main():
    steps = json.load(sys.stdin)
    end = steps.pop()["end"] if steps and "end" in steps[-1] else "shutdown"
    mark = uuid.uuid4().hex
    driver = Driver(mark)
    driver.interrupt, driver.input = None, []
    results = []
    try:
        for step in steps:
            results.append(driver.do(step))
    finally:
        driver.end(how=end)
    until = time.monotonic() + 2
    while processes(mark) and time.monotonic() < until:
        time.sleep(0.05)
    results.append(processes(mark))
    json.dump(results, sys.stdout)


main()
