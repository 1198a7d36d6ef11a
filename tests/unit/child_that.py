"""A child process for `test_child.py` that behaves as it is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from shared import child, errors


class Order(msgspec.Struct):
    act: str
    argument: str


def work(order: Order, report: child.Report) -> dict[str, object]:
    match order.act:
        case "answers":
            print("a library prints this")
            return {"answer": order.argument}
        case "shows its environment":
            return dict(os.environ)
        case "never ends a line":
            sys.stderr.write("x" * int(order.argument))
        case "counts":
            for n in range(int(order.argument)):
                report({"n": n})
        case "refuses":
            raise errors.BadModel(order.argument)
        case "crashes":
            return {"x": 1 / 0}
        case "segfaults":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "is_ended":
            os.kill(os.getpid(), int(order.argument))
        case "spins":
            while True:
                pass
        case "sleeps":
            time.sleep(60)
        case "hogs":
            return {"size": len(bytearray(4 << 30))}
        case "writes":
            Path(order.argument).write_bytes(bytes(8 << 20))
        case "forks":
            grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
            started = Path(order.argument).with_suffix(".new")
            started.write_text(f"{os.getpid()} {grandchild.pid}")
            started.rename(order.argument)
            time.sleep(60)
        case "fills":
            os.write(int(order.argument), b"hello ")
            os.write(int(order.argument), b"world")
        case "fills and refuses":
            os.write(int(order.argument), b"half")
            raise errors.BadModel("no good")
        case "has_fd":
            return {"open": Path(f"/proc/self/fd/{order.argument}").exists()}
    return {}


if __name__ == "__main__":
    if b'"babbles"' in (raw := sys.stdin.buffer.peek()):
        sys.stdout.write("this is no JSON\n")
        sys.exit(0)
    assert raw
    child.main(Order, work)
