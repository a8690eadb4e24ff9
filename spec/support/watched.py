"""A script that is watched, without the script: says what stands in a file to each viewer of its socket.

    python3 spec/support/watched.py FILE

The socket is $XDG_RUNTIME_DIR/mantichora/PID.sock. Lines of FILE go to the viewer as they are, but PID stands for this process;
`@sleep SECONDS` waits, `@until PATH` waits until there is such a file, `@repeat COUNT TEXT` says TEXT so often, with the number
of the time for %d, `@every SECONDS TEXT` says it from then on, `@close` ends the connection, and the end of FILE leaves it open. Ends by SIGTERM."""

import os
import signal
import socket
import sys
import threading
import time


def tell(viewer, lines):
    try:
        for line in lines:
            word, _, rest = line.partition(" ")
            if word == "@sleep":
                time.sleep(float(rest))
            elif word == "@until":
                while not os.path.exists(rest):
                    time.sleep(0.02)
            elif word == "@repeat":
                count, _, text = rest.partition(" ")
                viewer.sendall("".join(text.replace("%d", str(i)) + "\n" for i in range(int(count))).encode())
            elif word == "@every":
                seconds, _, text = rest.partition(" ")
                while True:
                    viewer.sendall((text + "\n").encode())
                    time.sleep(float(seconds))
            elif word == "@close":
                viewer.close()
                return
            else:
                viewer.sendall((line.replace("PID", str(os.getpid())) + "\n").encode("utf-8", "surrogateescape"))
        while viewer.recv(4096):
            pass
    except OSError:
        pass


def main():
    folder = os.environ["XDG_RUNTIME_DIR"] + "/mantichora"
    os.makedirs(folder, mode=0o700, exist_ok=True)
    path = "%s/%d.sock" % (folder, os.getpid())
    with open(sys.argv[1], encoding="utf-8", errors="surrogateescape") as file:
        lines = file.read().splitlines()

    def leave(*_):
        os.unlink(path)
        os._exit(0)

    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(8)
    signal.signal(signal.SIGTERM, leave)
    print(path, flush=True)
    while True:
        viewer, _ = server.accept()
        threading.Thread(target=tell, args=(viewer, lines), daemon=True).start()


main()
