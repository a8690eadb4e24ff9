"""The kernel "Lua (mantichora)" of Jupyter, around the program mantichora.

    python kernel.py --host=PROGRAM -f CONNECTION_FILE     as Jupyter starts it
    python kernel.py install PROGRAM [--user | --prefix=P | --sys-prefix]

The program runs the cells in a process of its own, the host, which has none of ZeroMQ's threads, so
that pools can fork from it. Host and kernel say frames to each other over a socket (a frame is a list
of byte strings, the first says what it is); what the host, its tasks and programs write comes through
two pipes. All of it happens in the kernel's one event loop.
"""

import asyncio
import base64
import codecs
import fcntl
import html
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
import uuid

MOST_BARS = 20  # unfinished ones that are shown
TEXT_EVERY = 0.05  # seconds, between messages of text
COUNT_EVERY = 0.1  # seconds, between updates of "... and 37 more"
SIGNAL_EVERY = 0.1  # seconds, until the host answers
TELL_AFTER = 5  # seconds without an answer
LEAVE_WITHIN = 1.0  # seconds, at shutdown
INPUT_EVERY = 0.02  # seconds, between looks for what was typed


# --- frames ---


def pack_frame(*fields):
    body = b"".join(
        struct.pack("<I", len(field)) + field
        for field in (f.encode() if isinstance(f, str) else f for f in fields)
    )
    return struct.pack("<I", len(body)) + body


def unpack_fields(body):
    fields, at = [], 0
    while at + 4 <= len(body):
        (length,) = struct.unpack_from("<I", body, at)
        fields.append(bytes(body[at + 4 : at + 4 + length]))
        at += 4 + length
    return fields


def text_of(data):
    return data.decode("utf-8", "replace")


# --- rich results ---


def is_text(mime):
    return mime.startswith("text/") or mime in ("application/javascript", "image/svg+xml", "application/xml")


def is_json(mime):
    return mime == "application/json" or mime.endswith("+json")


def bundle_of(fields):
    """MIME types and data, one after the other, as Jupyter wants them."""
    bundle = {}
    for mime, data in zip(fields[0::2], fields[1::2]):
        mime = text_of(mime)
        if is_json(mime):
            try:
                bundle[mime] = json.loads(data)
            except ValueError:
                bundle["text/plain"] = text_of(data)
        elif is_text(mime):
            bundle[mime] = text_of(data)
        else:
            bundle[mime] = base64.b64encode(data).decode()
    return bundle


# --- bars ---


def one_line(name):
    return "".join(c if c.isprintable() else "\ufffd" for c in name)


def rate_of(done, seconds):
    rate = done / seconds if seconds > 0 else 0.0
    for unit in ("", "k", "M", "G"):
        if rate < 1000 or unit == "G":
            return "%.1f%s/s" % (rate, unit)
        rate /= 1000


class Bar:
    """One progress bar, and the output that shows it."""

    def __init__(self, parent):
        self.parent = parent
        self.display = None  # the ID of the output; None: there is none yet

    def set(self, done, total, seconds, state, name):
        self.done, self.total, self.seconds, self.state = done, total, seconds, state
        self.name = one_line(name)

    def mark(self):
        return "" if self.state in ("running", "finished", "broken") else self.state

    def counts(self):
        """Percentage or None, and the text of the counts."""
        if self.total is None or self.done > self.total:
            return None, "%8d   %8s" % (self.done, rate_of(self.done, self.seconds))
        percent = 100 * self.done / self.total if self.total > 0 else 100.0
        return percent, "%8d / %8d" % (self.done, self.total)

    def text(self):
        percent, counts = self.counts()
        cells = ":" * int((percent or 0) * 40 / 100)
        mark = self.mark()
        if mark:
            cells = cells.ljust(40)[: 39 - len(mark)] + " " + mark
        head = " %6.2f%%" % percent if percent is not None else " " * 8
        return "%s %-40s | %s |:  %s" % (head, cells, counts, self.name)

    def html(self):
        percent, counts = self.counts()
        value = "" if percent is None else ' value="%.2f"' % percent
        head = "" if percent is None else "%6.2f%%" % percent
        return (
            '<div style="font-family: monospace; white-space: pre">'
            '<progress max="100"%s style="width: 20em; vertical-align: middle"></progress>'
            " %7s | %s |:  %s%s</div>"
            % (value, head, counts, html.escape(self.name), " (%s)" % self.mark() if self.mark() else "")
        )


class Bars:
    """All unfinished bars: some are shown, the rest is counted in one line."""

    def __init__(self, publish):
        self.publish = publish  # publish(type, content, parent)
        self.shown, self.hidden = {}, {}
        self.count = None  # display and parent of the line that counts
        self.counted = 0
        self.due = None

    def hear(self, event, key, bar_of):
        """Something happened to a bar; `bar_of(bar or None)` makes it, or brings it up to date."""
        bar = bar_of(self.shown.get(key) or self.hidden.get(key))
        if event == "end":
            self.end(key, bar)
        elif key in self.shown or len(self.shown) < MOST_BARS:
            self.shown[key] = bar
            self.draw(bar)
        else:
            self.hidden[key] = bar
            self.count_later()

    def end(self, key, bar):
        self.shown.pop(key, None)
        self.hidden.pop(key, None)
        self.draw(bar)
        while self.hidden and len(self.shown) < MOST_BARS:
            first = next(iter(self.hidden))
            self.shown[first] = self.hidden.pop(first)
            self.draw(self.shown[first])
        self.count_later()

    def end_all(self, state):
        """Nobody will tell of them any more."""
        for key, bar in list(self.shown.items()) + list(self.hidden.items()):
            bar.state = state
            self.end(key, bar)

    def draw(self, bar):
        if bar.display is None and self.count and not self.hidden:
            # What counted the rest counts nothing now: the last one takes its place.
            bar.display, bar.parent = self.count
            self.count, self.counted = None, 0
            kind = "update_display_data"
        elif bar.display is None:
            bar.display = uuid.uuid4().hex
            kind = "display_data"
        else:
            kind = "update_display_data"
        self.put(kind, bar.display, bar.parent, bar.text(), bar.html())

    def put(self, kind, display, parent, text, marked_up):
        data = {"text/plain": text, "text/html": marked_up}
        content = {"data": data, "metadata": {}, "transient": {"display_id": display}}
        self.publish(kind, content, parent)

    def count_later(self):
        if self.due is None and len(self.hidden) != self.counted:
            self.due = asyncio.get_event_loop().call_later(COUNT_EVERY, self.draw_count)

    def draw_count(self):
        if self.due is not None:
            self.due.cancel()
            self.due = None
        if len(self.hidden) == self.counted or not self.hidden:
            return
        kind = "update_display_data"
        if self.count is None:
            kind = "display_data"
            self.count = (uuid.uuid4().hex, next(iter(self.hidden.values())).parent)
        self.counted = len(self.hidden)
        line = "... and %d more" % self.counted
        self.put(kind, self.count[0], self.count[1], line, "<pre>%s</pre>" % line)


# --- the host ---


class Pipe:
    """What the host writes to one of its streams."""

    def __init__(self, name, take):
        self.name, self.take = name, take
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.fd, self.other = os.pipe()
        os.set_blocking(self.fd, False)

    def read(self, most=65536):
        """Bytes read; 0 at the end; None where there is nothing now."""
        try:
            data = os.read(self.fd, most)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        self.take(self.name, self.decoder.decode(data, final=not data))
        return len(data)

    def drain(self):
        """Read what is there now, and not what a program goes on to write."""
        waiting = bytearray(4)
        try:
            fcntl.ioctl(self.fd, termios.FIONREAD, waiting)
        except OSError:
            return
        (count,) = struct.unpack("=i", waiting)
        while count > 0:
            got = self.read(min(count, 65536))
            if not got:
                return
            count -= got


class Host:
    """The process that runs the cells."""

    def __init__(self, program, loop, take_text, take_frame, ended):
        self.loop, self.take_frame, self.ended = loop, take_frame, ended
        self.buffer = bytearray()
        self.socket, there = socket.socketpair()
        self.socket.setblocking(False)
        watched, self.lifeline = os.pipe()  # the host ends when the kernel's end goes
        acks, self.acks = os.pipe()
        self.pipes = [Pipe("stdout", take_text), Pipe("stderr", take_text)]
        passed = (there.fileno(), watched, acks)
        try:
            self.process = subprocess.Popen(
                [program, "jupyter", "host"] + [str(fd) for fd in passed],
                stdin=subprocess.DEVNULL,
                stdout=self.pipes[0].other,
                stderr=self.pipes[1].other,
                pass_fds=passed,
                start_new_session=True,
                preexec_fn=reset_signals,
            )
        finally:
            there.close()
            for fd in (watched, acks, self.pipes[0].other, self.pipes[1].other):
                os.close(fd)
        loop.add_reader(self.socket.fileno(), self.read_frames)
        for pipe in self.pipes:
            loop.add_reader(pipe.fd, self.read_pipe, pipe)

    def read_pipe(self, pipe):
        if pipe.read() == 0:
            self.loop.remove_reader(pipe.fd)

    def drain(self):
        for pipe in self.pipes:
            pipe.drain()

    def read_frames(self):
        try:
            data = self.socket.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.end()
            return
        self.buffer += data
        while len(self.buffer) >= 4:
            (length,) = struct.unpack_from("<I", self.buffer)
            if len(self.buffer) < 4 + length:
                break
            fields = unpack_fields(memoryview(self.buffer)[4 : 4 + length].tobytes())
            del self.buffer[: 4 + length]
            self.drain()
            self.take_frame(*fields)

    async def send(self, *fields):
        try:
            await self.loop.sock_sendall(self.socket, pack_frame(*fields))
        except OSError:
            pass  # it has gone, and read_frames() tells

    def acknowledge(self):
        """The host may go on: what it has shown has its place."""
        try:
            os.write(self.acks, b".")
        except OSError:
            pass

    def signal(self, number):
        """To all of its group."""
        try:
            os.killpg(self.process.pid, number)
        except OSError:
            pass

    def interrupt(self):
        """End what it waits for, a program for one, and have Lua raise "interrupted!"."""
        try:
            os.kill(self.process.pid, signal.SIGURG)  # SIGINT is ignored while os.execute waits
        except OSError:
            pass
        self.signal(signal.SIGINT)

    def finish(self, seconds):
        """End the process and all that it left in its group; how it ended. Any thread may call."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not has_ended(self.process.pid):
            time.sleep(0.01)
        self.signal(signal.SIGKILL)  # its process ID is its group's as long as nobody has waited for it
        return self.process.wait()

    def end(self):
        """The host has gone, or has closed its socket."""
        self.loop.remove_reader(self.socket.fileno())
        status = self.finish(LEAVE_WITHIN)
        self.drain()
        for pipe in self.pipes:
            self.loop.remove_reader(pipe.fd)
            os.close(pipe.fd)
        for fd in (self.lifeline, self.acks):
            os.close(fd)
        self.socket.close()
        self.ended(status)


def reset_signals():
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Jupyter's kernels ignore it between cells
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def has_ended(pid):
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
    except ChildProcessError:
        return True


def words_of(status):
    if status >= 0:
        return "has ended with status %d" % status
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = "signal"
    return "was killed by signal %d (%s)" % (-status, name)


# --- the kernel ---


def make_kernel_class(program):
    import zmq
    from ipykernel.kernelbase import Kernel

    class MantichoraKernel(Kernel):
        implementation = "mantichora"
        implementation_version = "0.1"
        language = "lua"
        language_version = "5.4"
        banner = "Lua (mantichora): tasks of Lua in background processes, with progress bars"
        language_info = {
            "name": "lua",
            "version": "5.4",
            "mimetype": "text/x-lua",
            "file_extension": ".lua",
            "pygments_lexer": "lua",
            "codemirror_mode": "lua",
        }
        help_links = [{"text": "Lua 5.4", "url": "https://www.lua.org/manual/5.4/"}]

        def start(self):
            super().start()
            self.host = None
            self.leaving = False
            self.cell_parent = {}  # of the cell that runs, or ran last
            self.silent = False
            self.cell = None  # resolved when the cell has ended
            self.answer = None  # resolved by what was asked for
            self.interrupting = None
            self.answered = False  # the host has heard of the interrupt
            self.asking = None
            self.texts = []
            self.text_due = None
            self.bars = Bars(self.publish)
            self.io_loop.add_callback(self.begin)

        async def begin(self):
            self.loop = asyncio.get_running_loop()
            self.loop.add_signal_handler(signal.SIGINT, self.on_interrupt)
            self.open_host()

        # SIGINT is the event loop's: it never becomes a KeyboardInterrupt in the middle of something.
        def pre_handler_hook(self):
            pass

        def post_handler_hook(self):
            pass

        # -- what goes to the frontends --

        def publish(self, kind, content, parent=None):
            if kind != "stream":
                self.flush_text()
            parent = self.cell_parent if parent is None else parent
            self.session.send(self.iopub_socket, kind, content, parent=parent, ident=self._topic(kind))

        def take_text(self, name, text):
            if not text:
                return
            if self.texts and self.texts[-1][0] == name:
                self.texts[-1][1].append(text)
            else:
                self.texts.append((name, [text]))
            if self.text_due is None:
                self.text_due = self.loop.call_later(TEXT_EVERY, self.flush_text)

        def flush_text(self):
            if self.text_due is not None:
                self.text_due.cancel()
                self.text_due = None
            texts, self.texts = self.texts, []
            for name, parts in texts:
                self.publish("stream", {"name": name, "text": "".join(parts)})

        # -- the host --

        def open_host(self):
            self.greeted = False  # one that cannot begin is not started over and over
            try:
                self.host = Host(program, self.loop, self.take_text, self.take_frame, self.host_ended)
            except OSError as problem:
                self.host = None
                self.take_text("stderr", "the host %s cannot be started: %s\n" % (program, problem))

        def take_frame(self, kind, *fields):
            handler = getattr(self, "on_" + kind.decode().replace(" ", "_"), None)
            if handler:
                handler(*fields)

        def on_hello(self, *versions):
            self.greeted = True

        def on_bar(self, event, key, done, total, microseconds, state, name):
            def bar_of(bar):
                bar = bar or Bar(self.cell_parent)
                bar.set(
                    int(done), int(total) if total else None, int(microseconds) / 1e6, text_of(state), text_of(name)
                )
                return bar

            self.bars.hear(event.decode(), int(key), bar_of)
            if event == b"start":
                self.host.acknowledge()

        def on_display(self, *fields):
            self.publish("display_data", {"data": bundle_of(fields), "metadata": {}, "transient": {}})
            self.host.acknowledge()

        def on_result(self, *fields):
            if not self.silent:
                content = {"data": bundle_of(fields), "metadata": {}, "execution_count": self.execution_count}
                self.publish("execute_result", content)
            self.host.acknowledge()

        def on_interrupted(self):
            self.answered = True

        def on_input(self, number):
            self.asking = asyncio.ensure_future(self.ask(number))

        def on_done(self, how, *fields):
            if how == b"ok":
                self.end_cell({"status": "ok", "payload": [], "user_expressions": {}})
            else:
                message, traceback = (text_of(field) for field in fields)
                self.end_cell(self.error_of(message, traceback))

        def error_of(self, message, traceback=""):
            lines = (message + ("\n" + traceback if traceback else "")).split("\n")
            error = {"ename": "Error", "evalue": message, "traceback": lines}
            self.publish("error", error)
            return dict(error, status="error")

        def end_cell(self, reply):
            self.bars.draw_count()
            self.flush_text()
            if self.cell is not None and not self.cell.done():
                self.cell.set_result(reply)

        def give(self, *fields):
            if self.answer is not None and not self.answer.done():
                self.answer.set_result(fields)

        on_completed = on_completeness = on_inspected = give

        def host_ended(self, status):
            self.host = None
            if self.leaving:
                return
            self.bars.end_all("killed" if status < 0 else "exited")
            message = "the host %s: its values and pools are gone; " % words_of(status)
            if self.greeted:
                self.open_host()
                message += "a new one has been started"
            else:
                message += "the next cell starts a new one"
            if self.cell is not None and not self.cell.done():
                self.end_cell(self.error_of(message))
            else:
                self.take_text("stderr", message + "\n")
            self.give()

        # -- requests --

        async def do_execute(
            self, code, silent, store_history=True, user_expressions=None, allow_stdin=False, **others
        ):
            self.cell_parent, self.silent, self.allows_input = self.get_parent("shell"), silent, allow_stdin
            self.cell_ident = identity_of(self)
            if self.host is None:
                self.open_host()
            if self.host is None:
                reply = self.error_of("the host %s cannot be started" % program)
            elif asked_about(code):
                reply = await self.explain(asked_about(code))
            else:
                self.cell = self.loop.create_future()
                self.answered = False
                await self.host.send("run", str(self.execution_count), code)
                reply = await self.cell
            self.stop_interrupting()
            return dict(reply, execution_count=self.execution_count)

        async def request(self, *fields):
            """What the host answers; () if it has gone."""
            if self.host is None:
                return ()
            self.answer = self.loop.create_future()
            await self.host.send(*fields)
            return await self.answer

        async def do_complete(self, code, cursor_pos):
            found = await self.request("complete", code[:cursor_pos])
            prefix, names = text_of(found[0]) if found else "", [text_of(name) for name in found[1:]]
            return {
                "status": "ok",
                "matches": names,
                "cursor_start": cursor_pos - len(prefix),
                "cursor_end": cursor_pos,
                "metadata": {},
            }

        async def do_inspect(self, code, cursor_pos, detail_level=0, omit_sections=()):
            found = await self.request("inspect", name_at(code, cursor_pos))
            data = {"text/plain": text_of(found[0])} if found else {}
            return {"status": "ok", "found": bool(found), "data": data, "metadata": {}}

        async def explain(self, name):
            """The cell `name?`: the frontend shows the text in its pager."""
            found = await self.request("inspect", name)
            payload = []
            if found:
                payload = [{"source": "page", "data": {"text/plain": text_of(found[0])}, "start": 0}]
            else:
                self.take_text("stdout", "%s is nil\n" % name)
                self.flush_text()
            return {"status": "ok", "payload": payload, "user_expressions": {}}

        async def do_is_complete(self, code):
            if asked_about(code):
                return {"status": "complete"}
            found = await self.request("is_complete", code)
            status = text_of(found[0]) if found else "unknown"
            return {"status": status, "indent": "  "} if status == "incomplete" else {"status": status}

        async def ask(self, number):
            """Ask somebody for a line of io.stdin."""
            if not self.allows_input:
                await self.host.send("no answer", number)
                return
            self.flush_text()
            while self.session.recv(self.stdin_socket, zmq.NOBLOCK)[1] is not None:
                pass  # answers to nobody
            content = {"prompt": "", "password": False}
            self.session.send(self.stdin_socket, "input_request", content, self.cell_parent, ident=self.cell_ident)
            reply = None
            while reply is None:
                await asyncio.sleep(INPUT_EVERY)
                reply = self.session.recv(self.stdin_socket, zmq.NOBLOCK)[1]
            value = reply["content"].get("value", "")
            if value == "\x04":
                await self.host.send("end of input", number)
            else:
                await self.host.send("answer", number, value)

        # -- interrupt and end --

        def on_interrupt(self):
            if self.asking is not None:
                self.asking.cancel()
                self.asking = None
            running = self.cell is not None and not self.cell.done()
            if running and (self.interrupting is None or self.interrupting.done()):
                self.answered = False
                self.interrupting = asyncio.ensure_future(self.interrupt())

        async def interrupt(self):
            began, told = time.monotonic(), False
            while not self.cell.done() and not self.answered and self.host is not None:
                self.host.interrupt()
                await asyncio.sleep(SIGNAL_EVERY)
                if not told and time.monotonic() - began > TELL_AFTER:
                    told = True
                    self.take_text(
                        "stderr",
                        "the cell has not stopped within %d seconds: it is in code that cannot be interrupted; "
                        "restarting the kernel ends it\n" % TELL_AFTER,
                    )

        def stop_interrupting(self):
            for task in (self.interrupting, self.asking):
                if task is not None:
                    task.cancel()
            self.interrupting = self.asking = None

        def do_shutdown(self, restart):
            # Comes on a thread of its own, while a cell may run.
            self.leaving = True
            host = self.host
            if host is not None:
                try:
                    host.socket.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
                busy = self.cell is not None and not self.cell.done()
                host.finish(0 if busy else LEAVE_WITHIN)
            return {"status": "ok", "restart": restart}

    return MantichoraKernel


def identity_of(kernel):
    """Who has sent the request; ipykernel keeps it in different places."""
    ident = getattr(kernel, "_parent_ident", None)
    if ident is None:
        ident = kernel._shell_parent_ident.get()
    return ident["shell"] if isinstance(ident, dict) else ident


def asked_about(code):
    """The name in `name?` or `?name`; else None."""
    code = code.strip()
    found = re.fullmatch(r"([A-Za-z_][\w.:]*)\s*\?{1,2}|\?{1,2}\s*([A-Za-z_][\w.:]*)", code)
    return found and (found.group(1) or found.group(2))


def name_at(code, cursor):
    """The dotted name at the cursor; where it stands behind a bracket, the name before that."""

    def is_part(c):
        return c.isalnum() or c in "_.:"

    last = cursor
    while last < len(code) and (code[last].isalnum() or code[last] == "_"):
        last += 1
    if last > 0 and last == cursor and code[last - 1] in "(?":
        last -= 1
    first = last
    while first > 0 and is_part(code[first - 1]):
        first -= 1
    return code[first:last].strip(".:")


# --- the command line ---


def full_path(program):
    found = program if os.sep in program else shutil.which(program)
    return os.path.abspath(found or program)


def install(program, options):
    from jupyter_client.kernelspec import KernelSpecManager

    where = {"user": "--user" in options}
    for option in options:
        if option.startswith("--prefix="):
            where["prefix"] = os.path.abspath(option[len("--prefix=") :])
        elif option == "--sys-prefix":
            where["prefix"] = sys.prefix
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        shutil.copyfile(os.path.abspath(__file__), os.path.join(folder, "kernel.py"))
        spec = {
            "argv": [sys.executable]
            + (["-Xfrozen_modules=off"] if sys.version_info >= (3, 11) else [])  # else debugpy warns
            + [
                "{resource_dir}/kernel.py",
                "--host=" + full_path(program),
                "-f",
                "{connection_file}",
            ],
            "display_name": "Lua (mantichora)",
            "language": "lua",
            "interrupt_mode": "signal",
        }
        with open(os.path.join(folder, "kernel.json"), "w", encoding="utf-8") as file:
            json.dump(spec, file, indent=1)
            file.write("\n")
        try:
            place = KernelSpecManager().install_kernel_spec(folder, "mantichora", **where)
        except OSError as problem:
            advice = "" if where["user"] or "prefix" in where else " (--user installs for this user only)"
            print("mantichora jupyter: the kernel cannot be installed: %s%s" % (problem, advice), file=sys.stderr)
            return 1
    print("The kernel \"Lua (mantichora)\" is in %s and runs with %s" % (place, sys.executable))
    return 0


def main():
    if sys.argv[1:2] == ["install"]:
        return install(sys.argv[2], sys.argv[3:])
    hosts = [word for word in sys.argv if word.startswith("--host=")]
    sys.argv = [word for word in sys.argv if not word.startswith("--host=")]
    if not hosts:
        print(__doc__, file=sys.stderr)
        return 2
    from ipykernel.kernelapp import IPKernelApp

    IPKernelApp.launch_instance(kernel_class=make_kernel_class(hosts[0][len("--host=") :]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
