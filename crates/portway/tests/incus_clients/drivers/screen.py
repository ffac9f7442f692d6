"""Runs a program in a terminal and says what stands on the screen. Arguments: the program and its own.

Standard input has one line of JSON a step: {"wait": TEXT} until it is on the screen, {"type": KEYS}, {"size": [ROWS,
COLUMNS]}. At the end of it, the program has ended by itself; the screens at each {"show": true} are printed, and the
exit status, as JSON. A wait that lasts a minute is a fault, which shows the screen.
"""

import fcntl
import json
import os
import pty
import select
import struct
import sys
import termios
import time

import pyte

ROWS, COLUMNS = 24, 80
LIMIT = 60


class Screen(pyte.Screen):
    """pyte 0.8.0 takes a question about the keyboard (CSI > 4 ; 2 m) for colours."""

    def select_graphic_rendition(self, *attributes, private=False):
        if not private:
            super().select_graphic_rendition(*attributes)


screen = Screen(COLUMNS, ROWS)
stream = pyte.ByteStream(screen)
child, terminal = pty.fork()
if child == 0:
    os.environ["TERM"] = "xterm"
    os.execvp(sys.argv[1], sys.argv[1:])


def resize(rows, columns):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, columns * 8, rows * 16))
    screen.resize(rows, columns)


def drain(seconds):
    """Takes in what comes, for so long; whether there may be more."""
    if not select.select([terminal], [], [], seconds)[0]:
        return True
    try:
        piece = os.read(terminal, 65536)
    except OSError:
        return False
    stream.feed(piece)
    return bool(piece)


def shown():
    return [line.rstrip() for line in screen.display]


def wait(text):
    begin = time.monotonic()
    while text not in "\n".join(shown()):
        if time.monotonic() - begin > LIMIT or not drain(0.2):
            raise SystemExit("no %r on the screen:\n%s" % (text, "\n".join(shown())))


resize(ROWS, COLUMNS)
screens = []
for line in sys.stdin:
    step = json.loads(line)
    if "wait" in step:
        wait(step["wait"])
    elif "type" in step:
        os.write(terminal, step["type"].encode())
    elif "size" in step:
        resize(*step["size"])
    else:
        # Until nothing has come for a while: what is drawn in pieces is drawn to its end.
        last = None
        while last != shown():
            last = shown()
            for _ in range(3):
                drain(0.2)
        screens.append(shown())
begin = time.monotonic()
while drain(0.2):
    if time.monotonic() - begin > LIMIT:
        raise SystemExit("it does not end:\n" + "\n".join(shown()))
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps({"screens": screens, "status": status}))
