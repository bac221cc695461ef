"""The chat page in a headless Chromium, with a model that is a list of words."""

import threading
import time

import pytest

ANSWER = "Use a **slice**:\n\n```python\ndef reverse(text):\n    return text[::-1]\n```\n\n<b>Done</b>."


class Words:
    """Stands in for an LM. It waits for `gate` before each piece."""

    def __init__(self):
        self.asked, self.given, self.gate = [], 0, threading.Event()
        self.gate.set()

    def chat(self, messages, stream, **sampling):
        self.asked.append(messages)
        if messages[-1]["content"] == "too long":
            raise ValueError("9,000 tokens are more than it can look at")
        return self.pieces(messages)

    def pieces(self, messages):
        for word in (ANSWER if len(messages) == 1 else "And again. " * 400).split(" "):
            self.gate.wait(10)
            self.given += 1
            time.sleep(0.005)
            yield word + " "


@pytest.fixture
def words():
    return Words()


@pytest.fixture
def chat(real, serving, words, open_page):
    """The chat page, opened."""

    def load(name):
        time.sleep(0.5)  # so that loading can be seen
        return words

    page = open_page()
    with serving(real, load) as url:
        page.goto(f"{url}/index.html")
        page.get_by_role("link", name="Chat", exact=True).click()
        yield page


def say(page, text):
    page.get_by_label("Your message").fill(text)
    page.keyboard.press("Enter")


def test_an_answer_streams_with_its_code_coloured(chat, words):
    words.gate.clear()
    say(chat, "Reverse a string")
    chat.get_by_text("smollm2-135m: ").wait_for()
    assert chat.get_by_role("button", name="Stop").is_visible()
    words.gate.set()
    chat.locator(".model pre .k", has_text="def").wait_for()
    chat.get_by_role("button", name="Send").wait_for()
    assert chat.locator(".model strong").inner_text() == "slice"
    assert "<b>Done</b>." in chat.locator(".model").inner_text()  # a model's HTML is text
    assert not chat.wrong


def test_stop_and_then_another_turn(chat, words):
    say(chat, "Reverse a string")
    chat.get_by_role("button", name="Send").wait_for()
    say(chat, "Once more")
    chat.locator(".model").nth(1).get_by_text("And again.").wait_for()
    chat.get_by_role("button", name="Stop").click()
    chat.get_by_text("stopped").wait_for()
    time.sleep(0.3)
    given = words.given
    time.sleep(0.3)
    assert words.given == given
    say(chat, "too long")
    chat.get_by_text("9,000 tokens").wait_for()
    say(chat, "Go on")
    chat.locator(".model").nth(3).get_by_text("And again.").wait_for()
    roles = [message["role"] for message in words.asked[-1]]
    assert roles == ["user", "assistant", "user", "assistant", "user"]
    assert words.asked[-1][1]["content"].strip() == ANSWER


def test_a_new_chat_forgets(chat, words):
    say(chat, "Reverse a string")
    chat.get_by_role("button", name="Send").wait_for()
    chat.get_by_role("button", name="New chat").click()
    assert chat.locator(".turn").count() == 0
    say(chat, "Reverse it")
    chat.get_by_role("button", name="Send").wait_for()
    assert [len(messages) for messages in words.asked] == [1, 1]


def test_another_model_can_be_chosen(chat, words):
    say(chat, "Reverse a string")
    chat.get_by_role("button", name="Send").wait_for()
    choice = chat.get_by_label("Model")
    assert choice.input_value() == "smollm2-135m"
    choice.select_option("tiny-words")
    assert chat.locator(".turn").count() == 0
    say(chat, "Reverse it")
    chat.get_by_text("tiny-words: ").wait_for()
    chat.get_by_role("button", name="Send").wait_for()
    assert choice.input_value() == "tiny-words" and len(words.asked[-1]) == 1
    assert not chat.wrong


def test_it_fits_on_a_phone(real, serving, words, open_page):
    with serving(real, lambda name: words) as url:
        page = open_page(width=390, color_scheme="dark")
        page.goto(f"{url}/chat")
        say(page, "x" * 300)
        page.get_by_role("button", name="Send").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert not page.wrong
