"""Chat templates render as worked out by hand and as in transformers. Hostile templates, which do not end,
use up memory or reach for Python objects, are refused."""

import json
import os
import re
import sys
from copy import copy
from dataclasses import replace
from pathlib import Path

import pytest
from support.sweeps import in_sweep
from support.tiny_tokenizer import write_tokenizer

pytest.importorskip("jinja2", reason="chat templates need jinja2")


from microgpt_trace.errors import FileFormatError, InputError
from microgpt_trace.vocabulary import chat_templates as templates
from microgpt_trace.vocabulary.huggingface import _templates, from_huggingface
from microgpt_trace.vocabulary.metadata import from_apr, from_gguf
from microgpt_trace.vocabulary.sandbox import MIB, Limits
from microgpt_trace.vocabulary.tokens import LIMITS, pick_template

PATH = Path("model.gguf")
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
MODEL = from_gguf({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["a"]}, PATH)


def render(template, text="Hi", limits=None):
    """Render in the process of MODEL, or in a new process if there are other limits."""
    model = replace(MODEL, templates={"default": template}, template_tokens=TOKENS)
    if limits:
        model = replace(model, template_process=copy(model.template_process))
        model.template_process.limits = limits
    return model.chat(text)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ bos_token }}{% for m in messages %}{{ m.role }} {{ m['content'] }}{% endfor %}", "<s>user Hi"),
        ("{% if add_generation_prompt %}go{% endif %}{% if tools %}tools{% endif %}", "go"),
        ("  {% if true %}\nx\n  {% endif %}\ny", "x\ny"),
        ("{% for i in range(9) %}{% if i > 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "012"),
        ("{% set y = 3 %}{% generation %}{% set y = 4 %}{{ y }}{% endgeneration %}{{ y }}", "43"),
        ("{{ tools is none }} {{ documents is none }} {{ nothing is defined }}", "True True False"),
        ("{{ strftime_now('%Y') | length }}", "4"),
    ],
)
def test_templates_have_the_names_of_transformers(template, expected):
    assert render(template) == expected


def test_tojson_does_not_escape_for_html():
    messages = [{"role": "user", "content": "é <&> '\n"}]
    expected = json.dumps(messages, ensure_ascii=False, indent=2)
    assert render("{{ messages | tojson(indent=2) }}", "é <&> '\n") == expected


@pytest.mark.parametrize(
    ("template", "kind", "message"),
    [
        ("{{ raise_exception('only\nassistants') }}", InputError, "refuses the message: only assistants"),
        ("{% if %}", FileFormatError, "line 1 of its chat template: "),
        ("{{ 1 / 0 }}", FileFormatError, "its chat template fails: division by zero"),
        ("{{ ''.__class__.__mro__ }}", InputError, "access to attribute '__class__'"),
        ("{{ messages.append(1) }}", InputError, "append"),
    ],
)
def test_the_error_of_a_template_is_one_line_that_names_the_file(template, kind, message):
    with pytest.raises(kind, match=f"^model.gguf: .*{message}") as error:
        render(template)
    assert "\n" not in str(error.value)


def test_picks_the_default_or_the_only_template():
    assert pick_template({"rag": "r", "default": "d"}, PATH) == "d"
    assert pick_template({"rag": "r"}, PATH) == "r"
    with pytest.raises(InputError, match="the file has no chat template"):
        pick_template({}, PATH)
    with pytest.raises(InputError, match="expected a chat template named default, found rag, tool_use"):
        pick_template({"tool_use": "t", "rag": "r"}, PATH)
    with pytest.raises(InputError) as caught:
        pick_template({"x" * 9999: "t", "y" * 9999: "r"}, PATH)
    assert len(str(caught.value)) < 300


def test_reads_the_named_templates_of_gguf_files():
    metadata = {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["a", "<s>"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.chat_templates": ["rag"], "tokenizer.chat_template.rag": "R",
        "tokenizer.chat_template": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}.",
    }  # fmt: skip
    vocabulary = from_gguf(metadata, PATH)
    assert dict(vocabulary.templates).keys() == {"default", "rag"}
    assert vocabulary.chat("Hi") == "<s>Hi."


def test_one_process_renders_all_texts_of_an_apr_file():
    metadata = {"tokenizer.vocabulary": ["a"], "chat_template": "{{ messages[0].content }}!"}
    vocabulary = from_apr(metadata, PATH)
    assert [vocabulary.chat(text) for text in "ab"] == ["a!", "b!"]
    process = vocabulary.template_process._running
    assert vocabulary.chat("c") == "c!"
    assert vocabulary.template_process._running is process


def test_reads_a_template_file_a_text_or_named_templates_of_folders(tmp_path):
    path = tmp_path / "tokenizer_config.json"
    named = [{"name": "default", "template": "d"}, {"name": "rag", "template": "r"}]
    assert _templates(tmp_path, {"chat_template": named}, path) == {"default": "d", "rag": "r"}
    assert _templates(tmp_path, {"chat_template": "t"}, path) == {"default": "t"}
    assert _templates(tmp_path, {}, path) == {}
    (tmp_path / "chat_template.jinja").write_text("é", encoding="utf-8")
    assert _templates(tmp_path, {"chat_template": "t"}, path) == {"default": "é"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_refuses_a_pipe_in_a_folder_without_opening_it(tmp_path):
    """The files become pipes in reverse order of reading, so that each new pipe is met first."""
    write_tokenizer(tmp_path)
    for name in ("chat_template.jinja", "generation_config.json", "tokenizer_config.json", "tokenizer.json"):
        (tmp_path / name).unlink(missing_ok=True)
        os.mkfifo(tmp_path / name)
        with pytest.raises(FileFormatError, match=f"{name}: expected .*, found a pipe"):
            from_huggingface(tmp_path)


# --- Hostile templates ----------------------------------------------------------------------------

LATE, MUCH = "does not finish within 0.4 seconds", "takes more than 120 MiB of memory"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")
@pytest.mark.parametrize(
    ("template", "failure"),
    [
        ("{% for a in range(9**5) %}{% for b in range(9**5) %}{% endfor %}{% endfor %}", LATE),
        in_sweep(("{{ 3**(10**8) }}", LATE)),  # computed during compilation
        ("{% set n = namespace(x=[1]) %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}", MUCH),
        ("{{ 'a' * (2 * 10**6) }}", "returns more than 1 MiB"),
    ],
)
def test_limits_the_time_memory_and_output_of_a_template(template, failure):
    with pytest.raises(FileFormatError) as caught:
        render(template, limits=Limits(0.4 if failure == LATE else 20, 120 * MIB, MIB))
    assert str(caught.value) == f"model.gguf: its chat template {failure}"


def test_shortens_a_long_refusal():
    message = r"^model\.gguf: its chat template refuses the message: x x x"
    with pytest.raises(InputError, match=message) as caught:
        render("{{ raise_exception('x ' * 10**7) }}", limits=Limits(20, 120 * MIB))
    assert len(str(caught.value)) < 400


def test_a_usual_template_needs_a_sixth_of_the_memory_limit():
    many = "{% for m in messages %}{{ bos_token }}{{ m.role }}\n{{ m.content | trim }}{% endfor %}" * 200
    assert render(many, limits=Limits(LIMITS.seconds, LIMITS.memory // 6)) == "<s>user\nHi" * 200


ESCAPES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['\\x5f\\x5fclass\\x5f\\x5f']['\\u005f\\u005fmro\\u005f\\u005f'] }}",
    "{{ ''|attr('__cla' ~ 'ss__')|attr('__base__') }}",
    "{{ messages|map(attribute='__class__')|list }}",
    "{{ [''] | map('attr', '__class__') | list }}",
    "{{ '{0.__class__}'.format(1) }}",
    "{{ '{0[__class__]}'.format(messages[0]) }}",
    "{{ '{a.__class__.__mro__}'.format_map({'a': 1}) }}",
    "{{ ('{0.__class__}'|safe).format(1) }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}",
    "{{ (messages|map('upper')).gi_frame.f_globals }}",
    "{{ request }}{{ get_flashed_messages.__globals__ }}{{ __builtins__ }}",
    "{{ messages[0].update(role='system') }}",
    "{% set messages[0].role = 'system' %}",
    "{% include '/etc/passwd' %}",
)


# Hidden attributes are undefined in the template and render as nothing.
NOTHING = ("", "[]", "[Undefined]", "[(Undefined, [{'role': 'user', 'content': 'Hi'}])]")


@pytest.mark.parametrize("template", ESCAPES)
def test_templates_cannot_escape_from_the_sandbox(template):
    text = refusal = ""
    try:
        text = templates.render(template, "Hi", TOKENS)
    except Exception as error:  # the process turns any exception into "fails: ..."
        refusal = str(error)
    print([text, refusal])
    assert text in NOTHING
    assert not re.search("root:|uid=|<module|<class|<func", refusal)
