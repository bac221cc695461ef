"""The commands for models, with the real SmolLM2, as a person uses them: in a pipe, and at a terminal."""

import codecs
import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scratchlm.workshop.pull import pull

PROGRAM = [str(Path(sys.executable).with_name("scratchlm"))]
QUESTION = "What is the capital of France? Answer with one word."


@pytest.fixture(scope="module", autouse=True)
def model():
    """SmolLM2 is fetched before anything is timed or read."""
    return pull("smollm2-135m")


def call(*arguments, text=""):
    """A command in a pipe: exit code, output, errors."""
    done = subprocess.run([*PROGRAM, *arguments], input=text, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


def test_a_question_in_a_pipe_is_answered_plainly():
    code, out, err = call("chat", "--temperature", "0", "--max-tokens", "12", text=QUESTION)
    assert code == 0 and "Paris" in out
    assert "\x1b" not in out and out.endswith("\n") and "Traceback" not in err
    assert call("chat", QUESTION, "--temperature", "0", "--max-tokens", "12")[1] == out


def test_a_file_is_a_model_too_and_chance_can_be_repeated(model):
    options = ("--model", str(model), "--max-tokens", "6", "--temperature", "1", "--seed", "7")
    one, two = (call("complete", "def add(a, b):", *options) for _ in range(2))
    assert one == two and one[0] == 0 and one[1].strip()


def test_complete_reads_the_input():
    code, out, _ = call("complete", "-", "--max-tokens", "4", text="for i in range(10")
    assert code == 0 and out.startswith(")")


@pytest.mark.parametrize(
    "arguments, why",
    [
        (["chat", "--model", "smollm"], "nothing is called 'smollm'"),
        (["chat", "--model", "/no/such.gguf", "Hi"], "no such file"),
        (["chat"], "the input is empty"),
        (["complete", "a", "--suffix", "b"], "cannot fill a gap"),
        (["complete", ""], "the text is empty"),
        (["complete", "x " * 9000], "more than smollm2-135m can look at"),
        (["train", "--steps", "0"], "steps"),
        (["train", "/no/such.toml"], "No such file"),
    ],
)
def test_a_mistake_is_one_line(arguments, why):
    code, out, err = call(*arguments, text="Hi" if "smollm" in arguments else "")
    (line,) = [line for line in err.splitlines() if not line.startswith("loading")]
    assert code == 1 and not out and line.startswith("scratchlm: ") and why in line


def test_a_conversation_at_a_terminal(tmp_path):
    """Typed at a pseudo-terminal: help, an answer that Ctrl-C stops, a saved conversation, the end."""
    master, terminal = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    process = subprocess.Popen([*PROGRAM, "chat", "--max-tokens", "4000"], stdin=terminal, stdout=terminal,
                               stderr=terminal, env=environment, start_new_session=True,
                               preexec_fn=lambda: __import__("fcntl").ioctl(0, 0x540E, 0))  # TIOCSCTTY
    os.close(terminal)
    screen, decoder = "", codecs.getincrementaldecoder("utf-8")("replace")

    def see(text, seconds=120):
        nonlocal screen
        deadline = time.time() + seconds
        while text not in screen:
            assert time.time() < deadline, f"{text!r} never came; the screen: {screen[-800:]}"
            if select.select([master], [], [], 0.2)[0]:
                fresh = decoder.decode(os.read(master, 1 << 16))
                screen += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", fresh)
        screen = screen.partition(text)[2]

    def say(line):
        os.write(master, line.encode() + b"\n")

    see("/help lists the commands")
    see("› ")
    say("/help")
    see("/system TEXT")
    say("Write a long story about Python.")
    time.sleep(2)  # in the midst of the answer, which is much longer
    os.write(master, b"\x03")
    see("…")
    see("› ")
    say(f"/save {tmp_path}/talk.json")
    see("Saved to")
    say("/quit")
    assert process.wait(20) == 0
    os.close(master)
    roles = [message["role"] for message in json.loads((tmp_path / "talk.json").read_text())]
    assert roles == ["user", "assistant"]
