"""The server, under uvicorn and under our own, asked by httpx, the openai client and the tool llm."""

import asyncio
import gc
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest

from scratchlm.assistant.serving import Service, create_app, serve_http
from scratchlm.foundations.tensor import no_grad
from scratchlm.inference.batching import Batcher
from scratchlm.inference.engine import Engine
from scratchlm.inference.prefix_cache import PrefixCache
from scratchlm.language.tokenisation import ByteTokenizer
from scratchlm.transformer.chat_template import encode_chat
from scratchlm.transformer.model_families import model_classes

TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<|start|>{{ m.role }}\n"
    "{{ m.content }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
SPECIAL = ["<|start|>", "<|end|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]
SPECIAL_IDS = range(256, 261)
GAP = [258, 97, 259, 98, 260]  # a gap between "a" and "b"
HELLO = [{"role": "user", "content": "Hello"}]


def random_lm():
    """A tiny random Llama that reads bytes, and writes any of them."""
    shape = {
        "model_type": "llama", "vocab_size": 261, "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32,
        "max_position_embeddings": 1024,
    }  # fmt: skip
    kind, settings = model_classes(shape)
    model = kind(settings.from_dict(shape), np.random.default_rng(0)).eval()
    rng = np.random.default_rng(1)
    with no_grad():
        for p in model.parameters():
            p.data = (p.data + 0.1 * rng.normal(size=p.shape)).astype(np.float32)
    tokenizer = ByteTokenizer(SPECIAL, eos="<|end|>")

    def engine():
        return Engine(model.config, model.state_dict(), threads=1, positions=2048)

    return SimpleNamespace(
        name="tiny", tokenizer=tokenizer, template=TEMPLATE, stop_ids=[257], context=1024, engine=engine,
        gap_ids=lambda before, after: [258, *before, 259, *after, 260],
    )


@contextmanager
def in_thread(start, stop):
    """Run a coroutine in a loop of another thread; stop() ends it."""
    thread = threading.Thread(target=lambda: asyncio.run(start()), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop()
        thread.join(10)
        assert not thread.is_alive()


@contextmanager
def under_uvicorn(app, sock):
    import uvicorn

    server = uvicorn.Server(
        uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
    )
    with in_thread(lambda: server.serve([sock]), lambda: setattr(server, "should_exit", True)):
        yield


@contextmanager
def under_ours(app, sock):
    state = {}

    async def start():
        state["loop"], state["end"] = asyncio.get_running_loop(), asyncio.Event()
        task = asyncio.create_task(serve_http(app, sock))
        await state["end"].wait()
        task.cancel()

    with in_thread(start, lambda: state["loop"].call_soon_threadsafe(state["end"].set)):
        yield


@pytest.fixture(scope="module")
def lm():
    return random_lm()


@pytest.fixture(scope="module", params=[under_ours, under_uvicorn], ids=["ours", "uvicorn"])
def server(request, lm):
    """A running server: url, service, port."""
    service = service_of(lm, queue=32)
    with socket.create_server(("127.0.0.1", 0), backlog=512) as sock:
        port = sock.getsockname()[1]
        with request.param(create_app(service, allow_origins=["http://page.example"]), sock):
            yield SimpleNamespace(url=f"http://127.0.0.1:{port}", service=service, port=port)
    service.close()


@pytest.fixture
def client(server):
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def service_of(lm, **options):
    engine = lm.engine()
    return Service(lm, Batcher(engine, max_batch=8, pages=PrefixCache(engine)), **options)


def expected(lm, ids, count, stop_ids=(257,), **sampling):
    """What an engine writes when nobody else is there."""
    batcher = Batcher(lm.engine(), max_batch=1)
    request = batcher.submit(ids, count, stop_ids=stop_ids, **sampling)
    batcher.run()
    stream = lm.tokenizer.stream(skip_special=True)
    return "".join(map(stream.push, request.ids)) + stream.flush()


def events(text):
    return [json.loads(line[6:]) for line in text.split("\n\n") if line.startswith("data: {")]


# --- with httpx


def test_answers_are_those_of_the_engine_whole_and_streamed(client, lm):
    ids = encode_chat(lm.tokenizer, TEMPLATE, HELLO)
    for sampling in ({"temperature": 0}, {"temperature": 1, "top_p": 0.9, "seed": 7}):
        right = expected(lm, ids, 24, **sampling)
        body = {"model": "tiny", "messages": HELLO, "max_tokens": 24} | sampling
        whole = client.post("/v1/chat/completions", json=body).json()
        assert whole["choices"][0]["message"]["content"] == right
        assert whole["usage"]["prompt_tokens"] == len(ids)
        streamed = events(client.post("/v1/chat/completions", json=body | {"stream": True}).text)
        assert "".join(e["choices"][0]["delta"].get("content", "") for e in streamed) == right
        text = client.post("/v1/completions", json={"prompt": "def f", "max_tokens": 24} | sampling).json()
        assert text["choices"][0]["text"] == expected(lm, list(b"def f"), 24, **sampling)
        gap = client.post(
            "/v1/completions", json={"prompt": "a", "suffix": "b", "max_tokens": 24} | sampling
        ).json()
        assert gap["choices"][0]["text"] == expected(lm, GAP, 24, SPECIAL_IDS, **sampling)


def test_many_parallel_streams_are_not_mixed_up(client, lm):
    prompts = [f"{number}: {'x' * (number % 50)}" for number in range(36)]
    right = [
        expected(lm, list(prompt.encode()), 20, temperature=1, seed=n) for n, prompt in enumerate(prompts)
    ]

    def ask(number):
        body = {"prompt": prompts[number], "max_tokens": 20, "stream": True, "temperature": 1, "seed": number}
        found = client.post("/v1/completions", json=body)
        assert found.status_code == 200, found.text
        return "".join(event["choices"][0]["text"] for event in events(found.text))

    with ThreadPoolExecutor(36) as pool:
        assert list(pool.map(ask, range(36))) == right


def test_a_flood_is_refused_and_the_rest_is_answered(server):
    async def flood():
        async with httpx.AsyncClient(
            base_url=server.url, timeout=60, limits=httpx.Limits(max_connections=None)
        ) as c:
            body = {"prompt": "a", "max_tokens": 100, "temperature": 1.5, "stop": None}
            return await asyncio.gather(*(c.post("/v1/completions", json=body) for _ in range(150)))

    answers = asyncio.run(flood())
    codes = [answer.status_code for answer in answers]
    assert set(codes) == {200, 429} and codes.count(200) >= 40
    for answer in answers:
        if answer.status_code == 429:
            assert 1 <= int(answer.headers["retry-after"]) <= 60
            assert answer.json()["error"]["code"] == "queue_full"
    assert not server.service.tickets


def test_clients_that_leave_free_their_places(server):
    body = json.dumps(
        {"prompt": "a", "max_tokens": 900, "stream": True, "temperature": 1.5, "seed": 3}
    ).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    for _ in range(3):
        raws = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
        for raw in raws:
            raw.sendall(head + body)
        while len(server.service.tickets) < 20:
            time.sleep(0.005)
        for raw in raws:
            raw.close()
        deadline = time.monotonic() + 3
        while server.service.tickets or server.service.batcher.busy:
            assert time.monotonic() < deadline
            time.sleep(0.005)
    assert server.service.batcher.pages.available() == 2048 // 16  # every page is back


def test_equal_beginnings_are_read_once_and_change_nothing(client, lm):
    prompt, options = "import numpy as np\n" * 20, {"max_tokens": 12, "temperature": 0}
    right = expected(lm, list(prompt.encode()), 12, temperature=0)

    def cached():
        return int(re.search(r"scratchlm_cached_tokens (\d+)", client.get("/metrics").text)[1])

    before = cached()
    for _ in range(3):
        found = client.post("/v1/completions", json={"prompt": prompt} | options).json()
        assert found["choices"][0]["text"] == right
    assert cached() >= before + 2 * (len(prompt) - 1)


def test_memory_stays_flat_over_many_requests(lm):
    """Resident memory after 500 requests and after 2,500: less than 8 MB apart."""
    service = service_of(lm)
    with socket.create_server(("127.0.0.1", 0), backlog=512) as sock:
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        with under_ours(create_app(service), sock), httpx.Client(base_url=url, timeout=60) as client:

            def ask(number):
                body = {"prompt": f"{number} is", "max_tokens": 4, "stream": number % 2 == 0}
                return client.post("/v1/completions", json=body).status_code

            def resident():
                gc.collect()
                pages = Path("/proc/self/statm").read_text().split()[1]
                return int(pages) * os.sysconf("SC_PAGE_SIZE")

            if not Path("/proc/self/statm").exists():
                pytest.skip("memory is measured where there is /proc")
            with ThreadPoolExecutor(16) as pool:
                assert set(pool.map(ask, range(500))) == {200}
                before = resident()
                assert set(pool.map(ask, range(500, 2500))) == {200}
                assert resident() - before < 8_000_000
    service.close()


def test_errors_have_the_form_that_clients_expect(client):
    for code, path, body in [
        (404, "/v1/chat/completions", {"model": "gpt-4", "messages": HELLO}),
        (400, "/v1/chat/completions", {"messages": HELLO, "n": 3}),
        (400, "/v1/chat/completions", {"messages": HELLO, "unknown": 1}),
        (400, "/v1/completions", {"prompt": "x" * 1024}),
    ]:
        answer = client.post(path, json=body)
        assert answer.status_code == code
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert client.post("/v1/completions", content=b"{").status_code == 400
    assert client.post("/v1/completions", content=b" " * 1_000_001).status_code == 413
    assert client.get("/health", headers={"Host": "evil.example"}).status_code == 403
    assert client.get("/health", headers={"Origin": "http://evil.example"}).status_code == 403
    allowed = client.get("/v1/models", headers={"Origin": "http://page.example"})
    assert allowed.headers["access-control-allow-origin"] == "http://page.example"


def test_metrics_are_what_prometheus_reads(client):
    client.post("/v1/completions", json={"prompt": "a", "max_tokens": 3})
    text = client.get("/metrics").text
    line = re.compile(r'# TYPE \w+ (counter|gauge|histogram)|\w+(\{(\w+="[^"]*",?)+\})? [0-9.e+-]+')
    assert all(line.fullmatch(each) for each in text.splitlines())
    assert "scratchlm_generated_tokens_total" in text and 'first_token_seconds_bucket{le="+Inf"}' in text


# --- the two servers, and Starlette


def test_both_servers_send_the_same(lm):
    """Head and body alike, but for ids, dates and the headers in which each server speaks of itself."""
    asked = [
        ("POST", "/v1/chat/completions", {"messages": HELLO, "max_tokens": 9, "temperature": 0}),
        ("POST", "/v1/completions", {"prompt": "a", "max_tokens": 0}),
        ("GET", "/v1/models", None),
        ("GET", "/nothing", None),
        ("DELETE", "/health", None),
    ]
    found = []
    for server in (under_ours, under_uvicorn):
        service = service_of(lm)
        with socket.create_server(("127.0.0.1", 0)) as sock:
            url = f"http://127.0.0.1:{sock.getsockname()[1]}"
            with server(create_app(service), sock), httpx.Client(base_url=url) as client:
                answers = [client.request(method, path, json=body) for method, path, body in asked]
        service.close()
        ours = ("content-type", "content-length", "cache-control", "allow")
        found.append(
            [
                (
                    answer.status_code,
                    re.sub(r'"(chatcmpl-\w+)"|"created": \d+', "", answer.text),
                    {name: answer.headers.get(name) for name in ours},
                )
                for answer in answers
            ]
        )
    assert found[0] == found[1]


def test_starlette_sends_the_same_events():
    """The same pieces, by Starlette's response and by ours, through both servers."""
    from starlette.applications import Starlette
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    from scratchlm.assistant.serving import Reply

    pieces = [{"n": n, "text": "é" * n} for n in range(50)]

    async def ours(scope, receive, send):
        reply = Reply(send)
        for piece in pieces:
            await reply.event(piece)
        await reply.event("[DONE]", more=False)

    def theirs(request):
        texts = [json.dumps(piece) for piece in pieces] + ["[DONE]"]
        headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        events = (f"data: {text}\n\n" for text in texts)
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    app = Starlette(routes=[Route("/theirs", theirs)])
    app.mount("/ours", ours)
    for server in (under_ours, under_uvicorn):
        with socket.create_server(("127.0.0.1", 0)) as sock:
            url = f"http://127.0.0.1:{sock.getsockname()[1]}"
            with server(app, sock), httpx.Client(base_url=url) as client:
                mine, other = client.get("/ours/"), client.get("/theirs")
        assert mine.content == other.content and mine.status_code == other.status_code == 200
        for name in ("cache-control", "x-content-type-options"):
            assert mine.headers[name] == other.headers[name]
        assert mine.headers["content-type"] == other.headers["content-type"].partition(";")[0]


# --- the official client


@pytest.fixture
def openai_client(server):
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def test_openai_chat(openai_client, lm):
    right = expected(lm, encode_chat(lm.tokenizer, TEMPLATE, HELLO), 16, temperature=0)
    options = {"model": "tiny", "messages": HELLO, "max_tokens": 16, "temperature": 0}
    create = openai_client.chat.completions.create
    whole = create(**options)
    assert whole.choices[0].message.content == right and whole.choices[0].finish_reason == "length"
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + 16
    parts = list(create(**options, stream=True, stream_options={"include_usage": True}))
    assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices) == right
    assert parts[-1].usage == whole.usage
    shown = create(**options, logprobs=True, top_logprobs=3).choices[0].logprobs.content
    assert len(shown) == 16 and all(len(token.top_logprobs) == 3 for token in shown)
    assert all(token.logprob == token.top_logprobs[0].logprob < 0 for token in shown)  # greedy
    assert [model.id for model in openai_client.models.list()] == ["tiny"]
    assert openai_client.models.retrieve("tiny").owned_by == "scratchlm"
    with create(**options, stream=True) as stream:
        next(iter(stream))  # and leave


def test_openai_completions_schema_and_tools(openai_client, lm):
    text = openai_client.completions.create(model="tiny", prompt="a", suffix="b", max_tokens=9, temperature=0)
    assert text.choices[0].text == expected(lm, GAP, 9, SPECIAL_IDS, temperature=0)
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    chat = openai_client.chat.completions.create
    for seed in range(5):
        found = chat(
            model="tiny", messages=HELLO, response_format=form, seed=seed, temperature=1.5, max_tokens=80
        )
        assert set(json.loads(found.choices[0].message.content)) == {"ok"}
    tool = {"type": "function", "function": {"name": "run", "parameters": {"type": "object"}}}
    found = chat(model="tiny", messages=HELLO, tools=[tool], max_tokens=5, temperature=0)
    ids = encode_chat(lm.tokenizer, TEMPLATE, HELLO, tools=[tool])
    assert found.usage.prompt_tokens == len(ids)


def test_openai_errors(openai_client):
    import openai

    chat = openai_client.chat.completions.create
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-4'"):
        chat(model="gpt-4", messages=HELLO)
    with pytest.raises(openai.BadRequestError, match="n must be 1") as caught:
        chat(model="tiny", messages=HELLO, n=2)
    assert caught.value.param == "n" and caught.value.code == "invalid_value"


# --- the command-line tool


def test_llm(server, tmp_path, lm):
    pytest.importorskip("llm")
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: ours\n  model_name: tiny\n  api_base: {server.url}/v1\n"
    )
    right = expected(lm, encode_chat(lm.tokenizer, TEMPLATE, HELLO), 12, temperature=0)
    environment = os.environ | {"LLM_USER_PATH": str(tmp_path), "PYTHONIOENCODING": "utf-8"}
    for more in ([], ["--no-stream"]):
        command = [
            sys.executable,
            "-m",
            "llm",
            "-m",
            "ours",
            "-o",
            "temperature",
            "0",
            "-o",
            "max_tokens",
            "12",
            *more,
        ]
        done = subprocess.run([*command, "Hello"], env=environment, capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr.decode()
        assert done.stdout.decode("utf-8").rstrip() == right.rstrip()


# --- keys


def test_a_key_opens_the_door(lm):
    openai = pytest.importorskip("openai")
    service = service_of(lm)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        url = f"http://127.0.0.1:{sock.getsockname()[1]}/v1"
        with under_ours(create_app(service, api_key="sesame"), sock):
            assert openai.OpenAI(base_url=url, api_key="sesame").models.list().data[0].id == "tiny"
            with pytest.raises(openai.AuthenticationError, match="API key"):
                openai.OpenAI(base_url=url, api_key="guess").models.list()
    service.close()
