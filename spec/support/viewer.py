# A viewer of a watched script, for specs: viewer.py FOLDER STEP ... connects to the socket in FOLDER/mantichora, as soon as
# there is one, and does one step after the other; prints what it reads. Exits with 1 if a step takes longer than 30 s.
#
#   until:TEXT    read until a line that contains TEXT
#   send:TEXT     send the line
#   bytes:N       send so many bytes without a newline
#   touch:NAME    make a file of this name in FOLDER
#   await:NAME    wait until there is one
#   eof           read to the end
#   again         another connection, beside the first, which is kept
import glob
import os
import socket
import sys
import time

deadline = time.monotonic() + 30


def find(folder):
    while time.monotonic() < deadline:
        for path in glob.glob(folder + "/mantichora*/*.sock"):
            viewer = socket.socket(socket.AF_UNIX)
            viewer.settimeout(0.1)
            try:
                viewer.connect(path)
                return viewer
            except OSError:
                viewer.close()
        time.sleep(0.01)
    sys.exit("no socket in " + folder)


folder = sys.argv[1]
viewer, kept, buffer, lines = find(folder), [], b"", []


def read_line():
    global buffer
    while b"\n" not in buffer:
        if time.monotonic() > deadline:
            sys.exit("too late")
        try:
            got = viewer.recv(1 << 16)
        except TimeoutError:
            continue
        except ConnectionError:
            return None
        if not got:
            return None
        buffer += got
    line, buffer = buffer.split(b"\n", 1)
    print(line.decode("utf-8"), flush=True)
    return line


for step in sys.argv[2:]:
    word, _, text = step.partition(":")
    if word == "until":
        while True:
            line = read_line()
            if line is None:
                sys.exit("the end came before " + text)
            if text.encode() in line:
                break
    elif word == "send":
        viewer.sendall(text.encode() + b"\n")
    elif word == "bytes":
        viewer.sendall(b"x" * int(text))
    elif word == "touch":
        open(folder + "/" + text, "w").close()
    elif word == "await":
        while not os.path.exists(folder + "/" + text):
            if time.monotonic() > deadline:
                sys.exit("no " + text)
            time.sleep(0.01)
    elif word == "eof":
        while read_line() is not None:
            pass
    elif word == "again":
        kept.append(viewer)
        viewer, buffer = find(folder), b""
