"""The sandbox under load, and when what stands around it dies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scratchlm.alignment import sandbox
from scratchlm.alignment.sandbox import LAYERS, Limits, run, run_many, trouble_with

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at Linux's /proc")


def of_room(room: str) -> set[int]:
    """The processes that stem from the keeper with this folder, the keeper among them."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if room.encode() in Path("/proc", pid, "cmdline").read_bytes():
                found.add(int(pid))
        except OSError:
            pass
    return found


def wait_until(holds, seconds=20.0):
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    assert holds()


def test_fifty_at_a_time():
    run("pass")
    before = len(os.listdir("/proc/self/fd"))
    limits = Limits(cpu=5, wall=60, output=100_000)
    codes = []
    for i in range(50):
        codes += [
            f"import sys\nprint({i}, sys.stdin.read())",
            f"open('own', 'w').write('{i}')\nimport time\ntime.sleep(0.1)\nprint(open('own').read())",
            f"raise ValueError({i})",
            f"import os\nos._exit({i})",
        ]
    found = run_many(codes, limits, workers=50, stdin="!")
    for i in range(50):
        first, second, third, fourth = found[4 * i : 4 * i + 4]
        assert first.passed and first.stdout == f"{i} !\n"
        assert second.passed and second.stdout == f"{i}\n"
        assert third.kind == "failed" and third.error == f"ValueError: {i}"
        assert fourth.kind == "exited" and fourth.error == f"exit status {i}"
    assert len(os.listdir("/proc/self/fd")) == before
    room = sandbox.KEEPERS[0].room
    wait_until(lambda: len(of_room(room)) == 1)
    wait_until(lambda: not os.listdir(room))


@pytest.mark.parametrize("without", [*LAYERS, ""])
def test_the_folder_is_gone_whatever_layer_is_missing(without):
    layers = [layer for layer in LAYERS if layer != without and not trouble_with(layer)]
    code = "import os\nfor _ in range(200):\n    os.mkdir('d')\n    os.chdir('d')\nprint('deep')"
    assert run(code, layers=layers).stdout == "deep\n"
    room = sandbox.KEEPERS[0].room
    wait_until(lambda: not os.listdir(room))


PARENT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
from scratchlm.alignment import sandbox
layers = sys.argv[1].split()
sandbox.run("pass", layers=layers)
print(sandbox.KEEPERS[0].room, flush=True)
sandbox.run("import time\\ntime.sleep(60)", limits=sandbox.Limits(wall=90), layers=layers)
"""


@pytest.mark.parametrize("layers", ["all", "limits", ""])
@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_its_parent(layers, blow):
    if layers == "all":
        layers = " ".join(sandbox.usable())
    parent = subprocess.Popen([sys.executable, "-c", PARENT, layers], text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    room = parent.stdout.readline().strip()
    wait_until(lambda: len(of_room(room)) >= 4)  # keeper, guard, init, program
    parent.send_signal(blow)
    parent.wait(20)
    wait_until(lambda: not of_room(room))
    assert not os.path.exists(room)
    parent.stdout.close()


def test_a_forked_process_has_its_own_keeper():
    run("pass")
    mine = sandbox.KEEPERS[0].process.pid
    child = os.fork()
    if child == 0:
        try:
            good = run("print(1)").stdout == "1\n" and sandbox.KEEPERS[0].process.pid != mine
            sandbox.close_keepers()
            os._exit(0 if good else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert run("print(2)").stdout == "2\n" and sandbox.KEEPERS[0].process.pid == mine


def test_a_keeper_that_dies_in_the_middle():
    import threading

    run("pass")
    keeper = sandbox.KEEPERS[0].process
    threading.Timer(0.5, keeper.kill).start()
    with pytest.raises(sandbox.SandboxError, match="without a report"):
        run("import time\ntime.sleep(30)")
    assert run("print(3)").stdout == "3\n"
