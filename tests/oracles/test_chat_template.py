"""jinja2, set up as Hugging Face sets it up, as the judge of our own reader of templates.

Templates in the style of real models, with everything such templates use, and random ones made
from a grammar: the same text, or an error from both.
"""

import json
import random
from datetime import datetime

import pytest

from scratchlm.language.bpe import train_bpe
from scratchlm.transformer.chat_template import Template, TemplateError, encode_chat, render, render_chatml

jinja2 = pytest.importorskip("jinja2")

import jinja2.ext  # noqa: E402
from jinja2.exceptions import TemplateError as JinjaError  # noqa: E402
from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: E402


class Generation(jinja2.ext.Extension):
    """`generation … endgeneration`, Hugging Face's own tag; here it only passes its body on."""

    tags = {"generation"}

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(["name:endgeneration"], drop_needle=True)


def hugging_face() -> ImmutableSandboxedEnvironment:
    """The environment in which transformers renders chat templates."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])

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


def outcomes(template: str, variables: dict) -> tuple[str, str]:
    """What our reader and jinja2 make of it; an error is the word ERROR, theirs with its text."""
    try:
        theirs = ENVIRONMENT.from_string(template).render(**variables)
    except Exception as error:
        theirs = f"ERROR {type(error).__name__} {error}"
    try:
        ours = Template(template).render(**variables)
    except TemplateError as error:
        assert "\n" not in str(error) and str(error).startswith("chat template")
        ours = f"ERROR {error}"
    return ours, theirs


def assert_same(template: str, variables: dict) -> None:
    ours, theirs = outcomes(template, variables)
    if theirs.startswith("ERROR"):
        assert ours.startswith("ERROR"), (template, ours, theirs)
    else:
        assert ours == theirs, (template, variables)


SMOLLM2 = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are a helpful AI assistant named Small, trained by a small team<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""

QWEN = r"""{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- else %}
        {{- 'You are a helpful assistant.' }}
    {%- endif %}
    {{- "\n\n# Tools\n\nCall functions as needed. Their signatures:\n<tools>" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools>\n\nAnswer with a JSON object:\n<tool_call>\n{\"name\": <name>, \"arguments\": <object>}\n</tool_call><|im_end|>\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\n' + message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\n<tool_call>\n{"name": "' }}
            {{- tool_call.name }}
            {{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\n<tool_response>\n' }}
        {{- message.content }}
        {{- '\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
"""

THINKING = r"""{%- set ns = namespace(multi_step=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if message.role == "assistant" %}
        {%- set reasoning = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or (not loop.last and reasoning)) %}
            {{- '<|im_start|>' + message.role + '\n<think>\n' + reasoning.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""

LLAMA3 = r"""{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not tools_in_user_message is defined %}
    {%- set tools_in_user_message = true %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}

{#- This block extracts the system message, so we can slot it into the right place. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}

{#- System message #}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\n" }}
{%- endif %}
{{- "Today Date: " + date_string + "\n\n" }}
{%- if tools is not none and not tools_in_user_message %}
    {{- "You have access to the following functions.\n\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\n\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}

{#- Tools go into the first user message #}
{%- if tools_in_user_message and not tools is none %}
    {%- if messages | length != 0 %}
        {%- set first_user_message = messages[0]['content']|trim %}
        {%- set messages = messages[1:] %}
    {%- else %}
        {{- raise_exception("Cannot put tools in the first user message when there's no first user message!") }}
    {%- endif %}
    {{- '<|start_header_id|>user<|end_header_id|>\n\n' -}}
    {{- "Given the following functions, please respond with a JSON for a function call.\n\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\n\n" }}
    {%- endfor %}
    {{- first_user_message + "<|eot_id|>"}}
{%- endif %}

{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}
        {{- '{"name": "' + tool_call.name + '", ' }}
        {{- '"parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}" }}
        {{- "<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\n\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""

LLAMA2 = """{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"""

GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '
' + message['content'] | trim + '<end_of_turn>
' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model
'}}{% endif %}"""

GEMMA3 = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '

' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '

' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '
' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>
' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model
'}}
{%- endif -%}
"""

MISTRAL = r"""{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}

{#- This block checks for alternating user/assistant messages, skipping tool calling messages #}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or message.role == "tool_results" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("After the optional system message, conversation roles must alternate") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}

{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}
                        {{- '"' + key + '": "' + val + '"' }}
                    {%- else %}
                        {{- '"' + key + '": ' + val|tojson }}
                    {%- endif %}
                    {%- if not loop.last %}
                        {{- ", " }}
                    {%- endif %}
                {%- endfor %}
                {{- "}}" }}
                {%- if not loop.last %}
                    {{- ", " }}
                {%- else %}
                    {{- "]" }}
                {%- endif %}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\n\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS] [" }}
        {%- for tool_call in message.tool_calls %}
            {%- set out = tool_call.function|tojson %}
            {{- out[:-1] }}
            {%- if not tool_call.id is defined or tool_call.id|length != 9 %}
                {{- raise_exception("Tool call IDs should be alphanumeric strings with length 9!") }}
            {%- endif %}
            {{- ', "id": "' + tool_call.id + '"}' }}
            {%- if not loop.last %}
                {{- ", " }}
            {%- else %}
                {{- "]" + eos_token }}
            {%- endif %}
        {%- endfor %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- elif message["role"] == "tool_results" or message["role"] == "tool" %}
        {%- if message.content is defined and message.content.content is defined %}
            {%- set content = message.content.content %}
        {%- else %}
            {%- set content = message.content %}
        {%- endif %}
        {{- '[TOOL_RESULTS] {"content": ' + content|string + ", " }}
        {{- '"call_id": "' + message.tool_call_id|string + '"}[/TOOL_RESULTS]' }}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported, with the exception of an initial optional system message!") }}
    {%- endif %}
{%- endfor %}
"""

PHI = """{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}{{'<|system|>
' + message['content'] + '<|end|>
'}}{% elif message['role'] == 'user' %}{{'<|user|>
' + message['content'] + '<|end|>
'}}{% elif message['role'] == 'assistant' %}{{'<|assistant|>
' + message['content'] + '<|end|>
'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>
' }}{% else %}{{ eos_token }}{% endif %}"""

ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{% generation %}
{{ '<|assistant|>
'  + message['content'] + eos_token }}
{% endgeneration %}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""

HARMONY = r"""{%- macro render_type(param_spec, required_params, is_nullable=false) -%}
    {%- if param_spec.type == "array" -%}
        {%- if param_spec['items'] -%}
            {{- render_type(param_spec['items'], required_params) + "[]" }}
        {%- else -%}
            {{- "any[]" }}
        {%- endif -%}
    {%- elif param_spec.type is defined and param_spec.type is iterable and param_spec.type is not string and param_spec.type is not mapping -%}
        {{- param_spec.type | join(" | ") }}
    {%- elif param_spec.enum is defined -%}
        {{- '"' + param_spec.enum|join('" | "') + '"' }}
    {%- elif param_spec.type == "object" -%}
        {{- "{\n" }}
        {%- for name, spec in param_spec.properties.items() %}
            {{- "    " ~ name ~ ("" if name in (param_spec.required or []) else "?") ~ ": " }}
            {{- render_type(spec, param_spec.required or [], is_nullable=true) }}
            {{- ",\n" if not loop.last else "\n" }}
        {%- endfor %}
        {{- "}" }}
    {%- else -%}
        {{- param_spec.type | default("any") }}
        {%- if is_nullable %}{{- "" }}{%- endif %}
    {%- endif -%}
{%- endmacro -%}
{%- macro namespace_of(name, tools) -%}
    {{- "## " + name + "\n\n" }}
    {%- for tool in tools %}
        {%- set tool = tool.function %}
        {{- "// " + (tool.description | default('none')) + "\n" }}
        {{- "type "+ tool.name + " = (_: " + render_type(tool.parameters, []) + ") => any;\n\n" }}
    {%- endfor %}
    {{- "} // namespace " + name | upper }}
{%- endmacro -%}
{%- set ns = namespace(last_tool=none, n=0) -%}
{{- "<|start|>system<|message|>" -}}
{%- if tools -%}{{- namespace_of("functions", tools) }}{%- endif -%}
{{- "<|end|>" -}}
{%- for message in messages -%}
    {%- if message.role == 'system' %}{% continue %}{% endif -%}
    {%- set ns.n = ns.n + 1 -%}
    {%- if ns.n > 6 %}{{- "…" }}{% break %}{% endif -%}
    {{- "<|start|>" + message.role + "<|message|>" + (message.content or "") + "<|end|>" }}
{%- endfor -%}
{%- if add_generation_prompt -%}
<|start|>assistant
{%- endif -%}"""

TEMPLATES = {"smollm2": SMOLLM2, "qwen": QWEN, "thinking": THINKING, "llama3": LLAMA3, "llama2": LLAMA2, "gemma": GEMMA,
             "gemma3": GEMMA3, "mistral": MISTRAL, "phi": PHI, "zephyr": ZEPHYR, "harmony": HARMONY}

TOOL = {"type": "function", "function": {
    "name": "weather", "description": "The weather of a city, in °C & <b>words</b>",
    "parameters": {"type": "object", "required": ["city"], "properties": {
        "city": {"type": "string", "description": "it's a \"city\""}, "days": {"type": "integer"},
        "units": {"type": "string", "enum": ["C", "F"]}, "tags": {"type": "array", "items": {"type": "string"}},
        "when": {"type": ["string", "null"]}}}}}
CALL = {"id": "abcdef123", "type": "function",
        "function": {"name": "weather", "arguments": {"city": "Zürich", "days": 2, "x": None, "ok": True, "f": 1.5}}}
TEXTS = ["Hi", "  padded \n", "two\nlines", "naïve 東京 😀", "<|im_end|> {{ x }} {% if %}", "it's \"quoted\" \\n", "",
         "<think>\nhm\n</think>\n\nWell", "<tool_response>5</tool_response>"]


def conversations(rng: random.Random):
    """Random conversations: mostly in order, some with tools, some that templates refuse."""
    text = lambda: rng.choice(TEXTS)  # noqa: E731
    for _ in range(150):
        messages = [{"role": "system", "content": text()}] if rng.random() < 0.5 else []
        for turn in range(rng.randrange(0, 5)):
            role = ("user", "assistant")[turn % 2] if rng.random() < 0.9 else rng.choice(("tool", "system", "user"))
            message = {"role": role, "content": text()}
            if role == "assistant" and rng.random() < 0.3:
                message |= {"tool_calls": [CALL] * rng.randrange(1, 3)}
            if role == "assistant" and rng.random() < 0.2:
                message |= {"reasoning_content": "I think"}
            if role == "tool":
                message |= {"tool_call_id": "abcdef123", "content": rng.choice(["5", {"content": "7"}, [1, 2]])}
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
    rendered = 0
    for variables in conversations(random.Random(name)):
        assert_same(TEMPLATES[name], variables)
        rendered += not outcomes(TEMPLATES[name], variables)[0].startswith("ERROR")
    assert rendered > 10


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


SPACING = ["a{% if x %}b{% endif %}c", "a\n  {% if x %}\n  b\n  {% endif %}\nc\n", "a \n {%- if x -%} \n b {%- endif -%} \n c",
           "  {%+ if x %} b {% endif +%}\n c", "{{- x -}} \n {{ x }}\n\n", "a {#- note -#} b {# note #}\n c",
           "  {# note #}  \n c", "a\n\n{% if x %}\n\nb{% endif %}\n\n", "\n{{ x }}\r\n{% set y = 1 %}\r\nz", "{{ '}}' }}{{ \"%}\" }}",
           "{% for i in [1, 2] %}\n  {{ i }}\n{% endfor %}\n", "x{# a\nb #}\n  {{ x }}", " \t{% if x %}\t{% endif %}",
           "{{ {'a': {'b': 1}}.a.b }}", "{% if x %}  \n{% else %}  \n{% endif %}  \n", "a  {#- n #}  \n  {% set z = 1 -%}  b"]


@pytest.mark.parametrize("template", SPACING)
def test_white_space(template):
    for x in (1, 0):
        assert_same(template, {"x": x})


VARIABLES = {"n": 3, "z": 0, "t": True, "none_": None, "f": 2.5, "s": "Hello World", "e": "", "l": [3, 1, 2],
             "d": {"a": 1, "b": [1, 2], "c": {"x": "y"}, "items": 5, "k e y": None}, "m": [
                 {"role": "user", "content": " hi ", "w": 1}, {"role": "assistant", "content": None, "w": 2},
                 {"role": "user", "content": "<bye>", "w": 2}]}


def random_expression(rng: random.Random, depth: int) -> str:
    """An expression in the subset that both should understand; many make no sense."""
    e = lambda: random_expression(rng, depth - 1)  # noqa: E731
    if depth == 0 or rng.random() < 0.15:
        return rng.choice(["n", "z", "t", "none_", "f", "s", "e", "l", "d", "m", "missing", "1", "0", "2.5", "'x'",
                           "\"it's\"", "'a\\nb'", "true", "false", "none", "[]", "{}", "[1, 'b']", "{'a': 1}", "(1, 2)",
                           "(1,)", "()", "loop.index", "ns.v", "-1", "'a' 'b'", "m[0]", "d.a", "d['b']", "d.c.x"])
    kind = rng.randrange(16)
    if kind < 4:
        return f"{e()} {rng.choice(['+', '-', '*', '/', '//', '%', '~'])} {e()}"
    if kind < 6:
        return f"{e()} {rng.choice(['==', '!=', '<', '>=', 'in', 'not in'])} {e()}"
    if kind == 6:
        return f"{e()} {rng.choice(['and', 'or'])} {e()}"
    if kind == 7:
        return f"({rng.choice(['not ', '-', '+'])}{e()})"
    if kind == 8:
        return f"({e()})"
    if kind == 9:
        return f"({e()} if {e()} else {e()})" if rng.random() < 0.7 else f"({e()} if {e()})"
    if kind == 10:
        if rng.random() < 0.3:
            return f"{rng.choice('nslmd')}{rng.choice(['[1:]', '[::-1]', '[:2]', '[0:1:1]', '[z:n]', '.__class__'])}"
        where = ["[0]", "[-1]", ".a", "['a']", "[9]", ".zzz", "[z]", ".items()", ".strip()",
                 ".upper()", ".split('o')", ".startswith('H')", ".keys()", ".get('a')", ".get('q', 7)", ".role",
                 ".lower().title()", ".values()|list", ".append(1)"]
        return f"({e()}){rng.choice(where)}"
    if kind in (11, 12):
        filters = ["trim", "length", "upper", "lower", "tojson", "tojson(indent=2)", "list", "first", "last", "string",
                   "join", "join(', ')", "default('D')", "default('D', true)", "replace('l', 'L')", "items|list", "int",
                   "reverse|list", "sort", "unique|list", "capitalize", "title", "d('x')", "count", "map('string')|list",
                   "map(attribute='role')|join('+')", "selectattr('role', 'equalto', 'user')|list|length", "indent(2)",
                   "rejectattr('content')|list", "selectattr('w', '>', 1)|list", "select('string')|list", "dictsort",
                   "reject('none')|list", "selectattr('content')|map(attribute='w')|list", "float", "abs", "sum"]
        return f"({e()})|{rng.choice(filters)}"
    if kind == 13:
        tests = ["defined", "undefined", "none", "string", "mapping", "iterable", "number", "integer", "boolean", "true",
                 "false", "sequence", "even", "odd", "divisibleby(2)", "divisibleby 3", "in [1, 2]", "equalto 1", "float",
                 "callable", "sameas(none)", "eq(1)", "ne 'x'", "lower", "upper"]
        return f"({e()}) is {rng.choice(['', 'not '])}{rng.choice(tests)}"
    if kind == 14:
        return f"[{e()}, {e()}]"
    return f"{{'k': {e()}}}"


def random_template(rng: random.Random, depth: int = 2) -> str:
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
            6: f"{{% for x in m if {e()} %}}{inner}{{{{ loop.first ~ loop.last }}}}{{% else %}}none{{% endfor %}}",
            7: f"{{% set ns.v = {e()} %}}{{{{ ns.v }}}}",
            8: f"{{% macro mac(p, q=2) %}}{{{{ p }}}}{inner}{{{{ q }}}}{{% endmacro %}}{{{{ mac({e()}) }}}}",
        }[kind])
    return "".join(parts)


def test_random_templates():
    rng, good = random.Random(0), 0
    for _ in range(4000):
        template = "{% set ns = namespace(v=0) %}" + random_template(rng)
        assert_same(template, VARIABLES)
        good += not outcomes(template, VARIABLES)[1].startswith("ERROR")
    assert good > 500
