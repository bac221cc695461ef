"""jinja2, set up as Hugging Face sets it up, as the judge of our own reader of templates.

Templates in the style of real models, with everything such templates use, and random ones made
from a grammar: the same text, or an error from both.
"""

import json
import random
import warnings
from datetime import datetime
from functools import lru_cache
from pathlib import Path

import pytest

from scratchlm.language.bpe import train_bpe
from scratchlm.transformer.chat_template import Template, TemplateError, encode_chat, render, render_chatml

jinja2 = pytest.importorskip("jinja2")

from jinja2.exceptions import TemplateError as JinjaError  # noqa: E402
from jinja2.ext import Extension, loopcontrols  # noqa: E402
from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: E402


class Generation(Extension):
    """`generation … endgeneration`, Hugging Face's own tag; here it only passes its body on."""

    tags = {"generation"}

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(["name:endgeneration"], drop_needle=True)


def hugging_face() -> ImmutableSandboxedEnvironment:
    """The environment in which transformers renders chat templates."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])

    def raise_exception(message):
        raise JinjaError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                          sort_keys=sort_keys)

    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    return environment


ENVIRONMENT = hugging_face()


from_string = lru_cache(maxsize=100)(ENVIRONMENT.from_string)


def outcomes(template: str, variables: dict) -> tuple[str, str]:
    """What our reader and jinja2 make of it; an error is the word ERROR, theirs with its text."""
    try:
        theirs = from_string(template).render(**variables)
    except Exception as error:
        theirs = f"ERROR {type(error).__name__} {error}"
    try:
        ours = Template(template).render(**variables)
    except TemplateError as error:
        assert "\n" not in str(error) and str(error).startswith("chat template")
        ours = f"ERROR {error}"
    return ours, theirs


def assert_same(template: str, variables: dict) -> bool:
    """The same text, or two errors; whether it was a text."""
    ours, theirs = outcomes(template, variables)
    if theirs.startswith("ERROR"):
        assert ours.startswith("ERROR"), (template, ours, theirs)
        return False
    assert ours == theirs, (template, variables)
    return True


FOLDER = Path(__file__).with_name("chat_templates")
TEMPLATES = {path.stem: path.read_text("utf-8") for path in sorted(FOLDER.glob("*.jinja"))}

TOOL = {"type": "function", "function": {
    "name": "weather", "description": "The weather of a city, in °C & <b>words</b>",
    "parameters": {"type": "object", "required": ["city"], "properties": {
        "city": {"type": "string", "description": "it's a \"city\""},
        "days": {"type": "integer"},
        "units": {"type": "string", "enum": ["C", "F"]},
        "tags": {"type": "array", "items": {"type": "string"}},
        "when": {"type": ["string", "null"]}}}}}
ARGUMENTS = {"city": "Zürich", "days": 2, "x": None, "ok": True, "f": 1.5}
CALL = {"id": "abcdef123", "type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}
TEXTS = ["Hi", "  padded \n", "two\nlines", "naïve 東京 😀", "<|im_end|> {{ x }} {% if %}",
         "it's \"quoted\" \\n", "", "<think>\nhm\n</think>\n\nWell", "<tool_response>5</tool_response>"]
ODD_ROLES = ("tool", "system", "user")


def conversations(rng: random.Random):
    """Random conversations: mostly in order, some with tools, some that templates refuse."""
    text = lambda: rng.choice(TEXTS)  # noqa: E731
    for _ in range(150):
        messages = [{"role": "system", "content": text()}] if rng.random() < 0.5 else []
        for turn in range(rng.randrange(0, 5)):
            role = ("user", "assistant")[turn % 2] if rng.random() < 0.9 else rng.choice(ODD_ROLES)
            message = {"role": role, "content": text()}
            if role == "assistant" and rng.random() < 0.3:
                message |= {"tool_calls": [CALL] * rng.randrange(1, 3)}
            if role == "assistant" and rng.random() < 0.2:
                message |= {"reasoning_content": "I think"}
            if role == "tool":
                result = rng.choice(["5", {"content": "7"}, [1, 2]])
                message |= {"tool_call_id": "abcdef123", "content": result}
            if role == "user" and rng.random() < 0.1:
                message["content"] = [{"type": "text", "text": text()}, {"type": "image"}]
            messages.append(message)
        variables = {"messages": messages, "add_generation_prompt": rng.random() < 0.5, "bos_token": "<s>",
                     "eos_token": "</s>", "documents": None}
        if rng.random() < 0.4:
            variables["tools"] = rng.choice([None, [TOOL], [TOOL, TOOL]])
        if rng.random() < 0.2:
            variables |= {"enable_thinking": False, "tools_in_user_message": False}
        yield variables


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_of_real_models(name):
    assert sum(assert_same(TEMPLATES[name], each) for each in conversations(random.Random(name))) > 10


def test_transformers_renders_the_same():
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    for name in ("smollm2", "qwen", "llama3", "gemma3", "mistral"):
        for variables in conversations(random.Random(1)):
            try:
                ours = render(TEMPLATES[name], **variables)
            except TemplateError:
                continue
            rest = {key: value for key, value in variables.items() if key not in ("messages", "documents")}
            theirs, _ = utils.render_jinja_template(
                [variables["messages"]], chat_template=TEMPLATES[name], **rest)
            assert theirs == [ours]


SPACING = [
    "a{% if x %}b{% endif %}c", "a\n  {% if x %}\n  b\n  {% endif %}\nc\n",
    "a \n {%- if x -%} \n b {%- endif -%} \n c", "  {%+ if x %} b {% endif +%}\n c",
    "{{- x -}} \n {{ x }}\n\n", "a {#- note -#} b {# note #}\n c", "  {# note #}  \n c",
    "a\n\n{% if x %}\n\nb{% endif %}\n\n", "\n{{ x }}\r\n{% set y = 1 %}\r\nz",
    "{{ '}}' }}{{ \"%}\" }}", "{% for i in [1, 2] %}\n  {{ i }}\n{% endfor %}\n",
    "x{# a\nb #}\n  {{ x }}", " \t{% if x %}\t{% endif %}", "{{ {'a': {'b': 1}}.a.b }}",
    "{% if x %}  \n{% else %}  \n{% endif %}  \n", "a  {#- n #}  \n  {% set z = 1 -%}  b",
]


@pytest.mark.parametrize("template", SPACING)
def test_white_space(template):
    for x in (1, 0):
        assert_same(template, {"x": x})


VARIABLES = {"n": 3, "z": 0, "t": True, "none_": None, "f": 2.5, "s": "Hello World", "e": "", "l": [3, 1, 2],
             "d": {"a": 1, "b": [1, 2], "c": {"x": "y"}, "items": 5, "k e y": None}, "m": [
                 {"role": "user", "content": " hi ", "w": 1}, {"role": "assistant", "content": None, "w": 2},
                 {"role": "user", "content": "<bye>", "w": 2}]}


# what expressions are made of, one by one between the bars
ATOMS = r"""n|z|t|none_|f|s|e|l|d|m|missing|1|0|2.5|'x'|"it's"|'a\nb'|true|false|none|[]|{}|[1, 'b']|{'a': 1}
|(1, 2)|(1,)|()|loop.index|ns.v|-1|'a' 'b'|m[0]|d.a|d['b']|d.c.x""".replace("\n", "").split("|")
SIGNS = ["+", "-", "*", "/", "//", "%", "~", "==", "!=", "<", ">=", "in", "not in", "and", "or"]
SLICES = ["[1:]", "[::-1]", "[:2]", "[0:1:1]", "[z:n]", ".__class__"]
AFTER = r"""[0]|[-1]|.a|['a']|[9]|.zzz|[z]|.items()|.strip()|.upper()|.split('o')|.startswith('H')
|.keys()|.get('a')|.get('q', 7)|.role|.lower().title()|.values()|.append(1)""".replace("\n", "").split("|")
FILTERS = """trim;length;upper;lower;tojson;tojson(indent=2);list;first;last;string;join;join(', ')
;default('D');default('D', true);replace('l', 'L');items|list;int;reverse|list;sort;unique|list;capitalize
;title;d('x');count;map('string')|list;map(attribute='role')|join('+')
;selectattr('role', 'equalto', 'user')|list|length
;indent(2);rejectattr('content')|list;selectattr('w', '>', 1)|list;select('string')|list;dictsort;float;abs
;reject('none')|list;selectattr('content')|map(attribute='w')|list;sum""".replace("\n", "").split(";")
TESTS = """defined;undefined;none;string;mapping;iterable;number;integer;boolean;true;false;sequence;even;odd
;divisibleby(2);divisibleby 3;in [1, 2];equalto 1;float;callable;sameas(none);eq(1);ne 'x';lower;upper"""
TESTS = TESTS.replace("\n", "").split(";")


def random_expression(rng: random.Random, depth: int) -> str:
    """An expression in the subset that both should understand; many make no sense."""
    if depth == 0 or rng.random() < 0.15:
        return rng.choice(ATOMS)
    a, b, c = (random_expression(rng, depth - 1) for _ in range(3))
    return rng.choice([
        f"{a} {rng.choice(SIGNS)} {b}", f"{a} {rng.choice(SIGNS[:7])} {b}",
        f"{a} {rng.choice(SIGNS[7:])} {b}", f"({rng.choice(['not ', '-', '+'])}{a})",
        f"({a})", f"({a} if {b} else {c})", f"({a} if {b})", f"({a}){rng.choice(AFTER)}",
        f"{rng.choice('nslmd')}{rng.choice(SLICES)}", f"({a})|{rng.choice(FILTERS)}",
        f"({a})|{rng.choice(FILTERS)}", f"({a}) is {rng.choice(['', 'not '])}{rng.choice(TESTS)}",
        f"[{a}, {b}]", f"{{'k': {a}}}"])


def random_template(rng: random.Random, depth: int) -> str:
    """A template of a few parts; with a depth, parts have parts."""
    e = lambda: random_expression(rng, rng.randrange(1, 4))  # noqa: E731
    parts = []
    for _ in range(rng.randrange(1, 4)):
        kind, a, b = rng.randrange(9), rng.choice(("", "-")), rng.choice(("", "-"))
        inner = random_template(rng, depth - 1) if depth else "{{ x }}"
        space = rng.choice(("", " ", "\n", "\n  ", " text "))
        parts.append(space + {
            0: f"{{{{{a} {e()} {b}}}}}", 1: f"{{{{ {e()} }}}}", 2: f"{{{{ {e()} }}}}",
            3: f"{{%{a} if {e()} {b}%}}{inner}{{% elif {e()} %}}E{{%{a} else %}}{inner}{{%- endif {b}%}}",
            4: f"{{%{a} for x in {e()} {b}%}}{inner}{{{{ loop.index }}}}{{{{ x }}}}{{%{a} endfor {b}%}}",
            5: f"{{%{a} set x = {e()} {b}%}}{{{{ x }}}}",
            6: f"{{% for x in m if {e()} %}}{inner}{{{{ loop.first }}}}{{% else %}}none{{% endfor %}}",
            7: f"{{% set ns.v = {e()} %}}{{{{ ns.v }}}}",
            8: f"{{% macro mac(p, q=2) %}}{{{{ p }}}}{inner}{{{{ q }}}}{{% endmacro %}}{{{{ mac({e()}) }}}}",
        }[kind])
    return "".join(parts)


def test_random_templates():
    rng, good = random.Random(0), 0
    warnings.simplefilter("ignore", SyntaxWarning)  # jinja2 compiles nonsense to Python as it is
    for depth in (0, 1, 2) * 200:
        template = "{% set ns = namespace(v=0) %}" + random_template(rng, depth)
        good += assert_same(template, VARIABLES)
    assert good > 100


def test_encode_chat_equals_plain_encoding_without_attacks():
    special = ["<|im_start|>", "<|im_end|>"]
    tokenizer = train_bpe([*TEMPLATES.values(), *TEXTS], 500, special_tokens=special)
    for variables in conversations(random.Random(5)):
        for name in ("smollm2", "qwen", "thinking"):
            messages, rest = variables["messages"], {k: v for k, v in variables.items() if k != "messages"}
            try:
                text = render(TEMPLATES[name], messages, **rest)
            except TemplateError:
                continue
            ids = encode_chat(tokenizer, TEMPLATES[name], messages, **rest)
            assert tokenizer.decode(ids) == text
            if not any("<|im_end|>" in str(message) for message in messages):
                assert ids == tokenizer.encode(text)
            harmless = json.loads(json.dumps(messages).replace("<|im_end|>", "letters"))
            others = encode_chat(tokenizer, TEMPLATES[name], harmless, **rest)
            assert [id for id in ids if id < 2] == [id for id in others if id < 2]


def test_chatml_by_hand():
    template = TEMPLATES["smollm2"].replace("loop.first and", "false and")
    for variables in conversations(random.Random(2)):
        messages = [each for each in variables["messages"] if isinstance(each["content"], str)]
        theirs = from_string(template).render(messages=messages, add_generation_prompt=True)
        assert render_chatml(messages) == theirs
