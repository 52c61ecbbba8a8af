"""Planted faults of chat templates are named, and templates that print the same are the same."""

import json
from pathlib import Path

import pytest
from support.export_vocabularies import EXPORTED, accused, changed_folder, exported, original, side, written

import microgpt_trace
from microgpt_trace.certification.template_checks import template_checks
from microgpt_trace.certification.vocabulary_checks import vocabulary_checks

templates = pytest.importorskip(
    "microgpt_trace.vocabulary.chat_templates", reason="chat templates need jinja2"
)
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

TEMPLATE = "tokenizer.chat_template"
CHATS = Path(microgpt_trace.__file__).parent / "certification" / "conversations.json"
CONVERSATIONS = json.loads(CHATS.read_text(encoding="utf-8"))
NAMES = list(CONVERSATIONS)
HELPFUL = ["no_system", "answered", "tool_call", "special"]
TOOLS = ["tools", "tool_call"]


def differing(name, change):
    """Return the names of the checks that accuse a changed template."""
    metadata = written(name)[0]
    checks = template_checks(exported(metadata | {TEMPLATE: change(metadata[TEMPLATE])}), original(name))
    assert [check.id for check in checks] == [f"template.{part}" for part in ("bos", *NAMES)]
    return [id_.partition(".")[2] for id_ in accused(checks)]


@pytest.mark.parametrize("answer", [True, False])
@pytest.mark.parametrize("name", ["llama-3", "qwen-2", "llama-2", "phi-3"])
def test_conversations_are_rendered_as_by_transformers(name, answer):
    """transformers renders the same conversations from the same folder."""
    judge = transformers.AutoTokenizer.from_pretrained(written(name)[1])
    tokens = original(name).vocabulary.names_in_templates()
    for title, chat in CONVERSATIONS.items():
        given = {**chat, "add_generation_prompt": answer}
        [(text, refusal)] = templates.render_each(EXPORTED[name].template, [given], tokens)
        expected = judge.apply_chat_template(given.pop("messages"), **given, tokenize=False)
        print(title, text, refusal, expected)
        assert (text, refusal) == (expected, "")


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("qwen-2", lambda text: text.replace("helpful", "useful"), HELPFUL),
        ("qwen-2", lambda text: text.replace("\n", ""), NAMES),
        ("qwen-2", lambda text: text.replace("assistant\n", "assistant"), NAMES),
        ("llama-3", lambda text: text.replace(" | trim", ""), ["blanks", "long"]),
        ("llama-2", lambda text: text.replace("[/INST]", "[/INST] "), NAMES),
        ("llama-2", lambda text: text + "{% if %}", NAMES),
        ("qwen-2", lambda text: text + "{{ tools | tojson if tools else '' }}", TOOLS),
        ("qwen-2", lambda text: "{{ messages[0].content.x.y }}" + text, NAMES),
        ("qwen-2", lambda text: "<|endoftext|>" + text, NAMES),
    ],
)
def test_names_the_conversations_that_a_changed_template_prints_otherwise(name, change, expected):
    assert differing(name, change) == expected


def test_shows_the_first_difference_in_place():
    metadata = written("qwen-2")[0]
    changed = metadata | {TEMPLATE: metadata[TEMPLATE].replace("helpful", "useful")}
    detail = template_checks(exported(changed), original("qwen-2"))[2].detail
    assert detail.startswith(
        'After "<|im_start|>system\\nYou are a ", the export prints "useful assistant.<|im_end|>\\n<|" '
        'and the original "helpful assistant.<|im_end|>\\n<". Copy'
    )


@pytest.mark.parametrize("bos", ["{{ bos_token }}", "<s>"])
def test_bos_twice_is_named_alone(bos):
    assert differing("llama-2", lambda text: bos + text) == ["bos"]


def test_bos_twice_follows_from_a_tokenizer_that_adds_none():
    export = exported(written("llama-2")[0] | {"tokenizer.ggml.add_bos_token": False})
    checks = [*vocabulary_checks(export, original("llama-2")), *template_checks(export, original("llama-2"))]
    assert accused(checks) == ["vocabulary.special"]
    assert next(check.status for check in checks if check.id == "template.bos") == "different"


def test_what_follows_from_another_bos_says_so():
    export = exported(written("llama-2")[0] | {"tokenizer.ggml.bos_token_id": 300})
    checks = template_checks(export, original("llama-2"))
    assert accused(checks) == []
    assert {check.status for check in checks} == {"same", "different"}


@pytest.mark.parametrize("name", ["llama-3", "qwen-2", "gemma-3", "qwen-3-moe", "mixtral"])
def test_templates_that_print_the_same_are_the_same(name):
    assert differing(name, lambda text: "{# a comment #}" + text) == []


def test_a_template_on_one_side_is_different(tmp_path):
    folder = original("qwen-2")
    none = changed_folder("qwen-2", tmp_path, chat_template=None)
    pairs = [(none, folder, "different"), (folder, none, "different"), (none, none, "same")]
    for *sides, status in pairs:
        [check] = template_checks(*sides)
        print(check.detail)
        assert (check.id, check.status) == ("template.missing", status)


def test_without_a_vocabulary_no_template_is_checked():
    [check] = template_checks(side(None, "Broken."), original("qwen-2"))
    assert (check.id, check.status, check.detail) == ("template.missing", "not checked", "Broken.")


def test_uses_the_template_for_tools(tmp_path):
    named = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    folder = changed_folder("qwen-2", tmp_path, chat_template=named)
    metadata = written("qwen-2")[0] | {TEMPLATE: "a", f"{TEMPLATE}.tool_use": "c"}
    assert accused(template_checks(exported(metadata), folder)) == ["template.tools", "template.tool_call"]
