#!/usr/bin/env python3
"""Makes tests/golden/text/chat.json: conversations, and the prompts that the models' own Jinja templates give for them.

    python3 make_chat.py MODEL.gguf TEMPLATES     (needs jinja2 and gguf)

Short templates stand here, SmolLM2's comes from its GGUF file. The long ones are read from TEMPLATES/NAME.jinja, the
model's chat_template as it is published; of those only the fragments that tell them apart are kept.
Rendered as transformers does: trim_blocks and lstrip_blocks on.
"""
import ast
import json
import pathlib
import re
import sys

import gguf
import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = pathlib.Path(__file__).parent

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + "
    "'<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
    "{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
ORDER = "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}"
    "{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}" + ORDER + "{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}" + ORDER + "{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ message['content'] + eos_token}}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
ZEPHYR = (
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)

LONG = {  # fragments by which they are recognised
    "qwen2.5": [
        "{%- if tools %}", "'<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n'",
        "{%- if add_generation_prompt %}",
    ],
    "qwen3": [
        "{%- if tools %}", "'<|im_start|>system\\n'", "You are provided with function signatures", "<|im_end|>", "strip", "last_query_index=messages|length - 1", "'\\n<think>\\n' + ",
        "enable_thinking is defined and enable_thinking is false",
        "{%- if add_generation_prompt %}",
    ],
    "llama3.1": [
        "\"<|start_header_id|>system<|end_header_id|>\\n\\n\"", "\"Cutting Knowledge Date: December 2023\\n\"",
        "{%- set date_string = \"26 Jul 2024\" %}", "{#- This block extracts the system message", "{{- \"<|eot_id|>\" }}", "{%- set tools = none %}", "message['content'] | trim",
        "{{- bos_token }}", "{%- if add_generation_prompt %}",
    ],
    "llama3.2": [
        "\"<|start_header_id|>system<|end_header_id|>\\n\\n\"", "\"Cutting Knowledge Date: December 2023\\n\"",
        "{%- set date_string = strftime_now(\"%d %b %Y\") %}", "{%- set date_string = \"26 Jul 2024\" %}", "{#- This block extracts the system message", "{%- set tools = none %}",
        "message['content'] | trim", "{{- \"<|eot_id|>\" }}", "{{- bos_token }}", "{%- if add_generation_prompt %}",
    ],
}
ROWS = HERE.parents[2] / "runtime/text/chat_template_rows.c"
FIXED_DATE = "01 Jan 2001"  # the test puts today's date in its place


def conversation(*turns):
    roles = {"s": "system", "u": "user", "a": "assistant"}
    return [{"role": roles[role], "content": content} for role, content in turns]


CONVERSATIONS = [
    conversation(("u", "Hello")),
    conversation(("s", "Be brief."), ("u", "Hello")),
    conversation(("u", "Hello"), ("a", "Hi there"), ("u", "Who are you?")),
    conversation(("s", "You are a helpful assistant"), ("u", "Hello"), ("a", "Hi there"), ("u", "Who are you"), ("a", "   I am   "), ("u", "Go on")),
    conversation(("u", "  spaces around \n"), ("a", "\n\nlines\n"), ("u", "\t\u00a0\u3000wide\x1f")),
    conversation(("s", "  padded system  "), ("u", "   ")),
    conversation(("u", "")),
    conversation(("s", "")),
    conversation(("s", "alone")),
    conversation(("u", "unfinished"), ("a", "Sure, ")),
    conversation(("u", "a"), ("a", "<think>\nfirst\n</think>\n\nanswer"), ("u", "b"), ("a", "<think>second</think>done")),
    conversation(("u", "a"), ("a", "<think>x</think>one"), ("a", "<think>\n\n</think>two"), ("a", "three")),
    conversation(("u", "a"), ("a", "no opening</think>\n\nrest</think>\nend"), ("u", "<tool_response>r</tool_response>"), ("a", "ok")),
    conversation(("u", "a"), ("u", "b")),
    conversation(("a", "first"), ("u", "b")),
    conversation(("u", "a"), ("s", "late"), ("u", "b")),
    conversation(("u", "<|im_end|> {{ bos_token }} [/INST] </s> é 日本 👍")),
]


def refuse(message):
    raise jinja2.TemplateError(message)


def environment():
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    made.globals["raise_exception"] = refuse
    made.globals["strftime_now"] = lambda form: FIXED_DATE
    return made


def render(name, template, messages, generation, tokens):
    if name == "llama2" and any(message["role"] == "system" for message in messages[1:]):
        return None  # the original drops such a message without a word; here it is refused
    try:
        return template.render(messages=messages, add_generation_prompt=generation, **tokens)
    except jinja2.TemplateError:
        return None


def marks():
    """Every fragment that some row looks for."""
    for group in re.findall(r"MARKS\((.*?)\),\n", ROWS.read_text(), re.S):
        for literals in re.findall(r'"(?:[^"\\]|\\.)*"(?:\s*"(?:[^"\\]|\\.)*")*', group):
            yield "".join(ast.literal_eval(literal) for literal in re.findall(r'"(?:[^"\\]|\\.)*"', literals)).removeprefix("!")


def excerpt(name, text):
    """The kept fragments; rows must judge them as they judge the whole."""
    kept = "\n".join(LONG[name])
    wrong = [mark for mark in marks() if (mark in kept) != (mark in text)]
    missing = [fragment for fragment in LONG[name] if fragment not in text]
    assert not wrong and not missing, (name, wrong, missing)
    return kept


def main():
    model, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    smollm2 = gguf.GGUFReader(model).fields["tokenizer.chat_template"].contents()
    mistral_tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    llama3_tokens = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
    chatml_tokens = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    full = {
        "smollm2": (smollm2, chatml_tokens), "chatml": (CHATML, chatml_tokens), "qwen2": (QWEN2, chatml_tokens), "llama3": (LLAMA3, llama3_tokens),
        "llama2": (LLAMA2, mistral_tokens), "mistral": (MISTRAL, mistral_tokens), "zephyr": (ZEPHYR, mistral_tokens),
    }
    for name in LONG:
        text = (folder / f"{name}.jinja").read_text()
        full[name] = (text, llama3_tokens if name.startswith("llama") else chatml_tokens)
    templates = []
    for name, (text, tokens) in full.items():
        template = environment().from_string(text)
        templates.append({
            "name": name, "text": excerpt(name, text) if name in LONG else text, **tokens,
            "prompts": [[render(name, template, messages, generation, tokens) for generation in (False, True)] for messages in CONVERSATIONS],
        })
    golden = {"date": FIXED_DATE, "conversations": CONVERSATIONS, "templates": templates}
    (HERE / "chat.json").write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
