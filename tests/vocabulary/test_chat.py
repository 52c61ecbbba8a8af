"""Chat templates against text worked out by hand (transformers renders them the same)."""

import json
import os
import sys
from pathlib import Path

import pytest
from support.tiny_tokenizer import write_tokenizer

from microgpt_trace.errors import FileFormatError, InputError
from microgpt_trace.vocabulary.apr import from_apr
from microgpt_trace.vocabulary.gguf import from_gguf
from microgpt_trace.vocabulary.huggingface import _templates, from_huggingface
from microgpt_trace.vocabulary.tokens import pick_template, render_chat, template_process

pytest.importorskip("jinja2", reason="chat templates need jinja2")
PATH = Path("model.gguf")
PROCESS = template_process()  # one for all of them


def render(template, text="Hi"):
    return render_chat(template, text, {"bos_token": "<s>", "eos_token": "</s>"}, PATH, PROCESS)


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
def test_templates_find_what_transformers_gives_them(template, expected):
    assert render(template) == expected


def test_json_is_not_escaped_for_html():
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
def test_a_template_that_fails_is_one_line_that_names_the_file(template, kind, message):
    with pytest.raises(kind, match=f"^model.gguf: .*{message}") as error:
        render(template)
    assert "\n" not in str(error.value)


def test_the_default_or_only_template_is_taken():
    assert pick_template({"rag": "r", "default": "d"}, PATH) == "d"
    assert pick_template({"rag": "r"}, PATH) == "r"
    with pytest.raises(InputError, match="the file has no chat template"):
        pick_template({}, PATH)
    with pytest.raises(InputError, match="none of its chat templates is the default: rag, tool_use"):
        pick_template({"tool_use": "t", "rag": "r"}, PATH)
    with pytest.raises(InputError) as caught:
        pick_template({"x" * 9999: "t", "y" * 9999: "r"}, PATH)
    assert len(str(caught.value)) < 300


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(InputError, match=r"jinja2: python -m pip install jinja2$"):
        render("x")


def test_gguf_files_name_templates_by_key():
    metadata = {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["a", "<s>"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.chat_templates": ["rag"], "tokenizer.chat_template.rag": "R",
        "tokenizer.chat_template": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}.",
    }  # fmt: skip
    vocabulary = from_gguf(metadata, PATH)
    assert dict(vocabulary.templates).keys() == {"default", "rag"}
    assert vocabulary.chat("Hi") == "<s>Hi."


def test_apr_files_carry_one_template_and_one_process_renders_all_texts():
    metadata = {"tokenizer.vocabulary": ["a"], "chat_template": "{{ messages[0].content }}!"}
    vocabulary = from_apr(metadata, PATH)
    assert [vocabulary.chat(text) for text in "ab"] == ["a!", "b!"]
    process = vocabulary._template_process._running
    assert vocabulary.chat("c") == "c!"
    assert vocabulary._template_process._running is process


def test_folders_carry_a_file_a_text_or_named_templates(tmp_path):
    path = tmp_path / "tokenizer_config.json"
    named = [{"name": "default", "template": "d"}, {"name": "rag", "template": "r"}]
    assert _templates(tmp_path, {"chat_template": named}, path) == {"default": "d", "rag": "r"}
    assert _templates(tmp_path, {"chat_template": "t"}, path) == {"default": "t"}
    assert _templates(tmp_path, {}, path) == {}
    (tmp_path / "chat_template.jinja").write_text("é", encoding="utf-8")
    assert _templates(tmp_path, {"chat_template": "t"}, path) == {"default": "é"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_in_the_folder_is_neither_waited_for_nor_passed_over(tmp_path):
    """Each file is found before those that are pipes already."""
    write_tokenizer(tmp_path)
    for name in ("chat_template.jinja", "generation_config.json", "tokenizer_config.json", "tokenizer.json"):
        (tmp_path / name).unlink(missing_ok=True)
        os.mkfifo(tmp_path / name)
        with pytest.raises(FileFormatError, match=f"{name}: expected .*, found a pipe"):
            from_huggingface(tmp_path)
