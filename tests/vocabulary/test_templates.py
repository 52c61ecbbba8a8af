"""Hostile chat templates: what does not end, what wants all memory, what looks behind its values."""

import re
import sys
from pathlib import Path

import pytest
from support.sweeps import in_sweep

pytest.importorskip("jinja2", reason="chat templates need jinja2")

from microgpt_trace.errors import FileFormatError, InputError
from microgpt_trace.vocabulary.sandbox import MIB, Limits
from microgpt_trace.vocabulary.templates import render
from microgpt_trace.vocabulary.tokens import LIMITS, render_chat, template_process

FILE = Path("model.gguf")
LATE, MUCH = "is not done after 0.4 seconds", "takes more than 120 MiB of memory"


def rendered(template, text="Hi"):
    return render(template, text, {"bos_token": "<s>", "eos_token": "</s>"})


def bounded(template, seconds, memory=120 * MIB):
    """What is said of a template that takes more than that."""
    with pytest.raises(FileFormatError, match=r"^model\.gguf: its chat template ") as caught:
        render_chat(template, "Hi", {}, FILE, template_process(Limits(seconds, memory, MIB)))
    print(caught.value)
    return str(caught.value).removeprefix("model.gguf: its chat template ")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds the memory of a process")
@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% for a in range(9**5) %}{% for b in range(9**5) %}{% endfor %}{% endfor %}", LATE),
        in_sweep(("{{ 3**(10**8) }}", LATE)),  # while it is compiled
        ("{% set n = namespace(x=[1]) %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}", MUCH),
        in_sweep(("{{ 'a' | center(10**9) }}", MUCH)),
        in_sweep(("{{ '{:1000000000}'.format(1) }}", MUCH)),
        in_sweep(("{{ strftime_now('%Y' * 10**9) }}", MUCH)),
        ("{{ 'a' * (2 * 10**6) }}", "answers with more than 1 MiB"),
    ],
)
def test_a_template_that_wants_all_time_or_memory_gets_a_little(template, said):
    assert bounded(template, seconds=0.4 if said == LATE else 20) == said


def test_a_long_refusal_is_one_short_line():
    process = template_process(Limits(20, 120 * MIB))
    said = r"^model\.gguf: its chat template refuses the message: x x x"
    with pytest.raises(InputError, match=said) as caught:
        render_chat("{{ raise_exception('x ' * 10**7) }}", "Hi", {}, FILE, process)
    assert len(str(caught.value)) < 400


def test_a_usual_template_needs_a_small_part_of_what_it_may_take():
    few = Limits(LIMITS.seconds, LIMITS.memory // 6)
    many = "{% for m in messages %}{{ bos_token }}{{ m.role }}\n{{ m.content | trim }}{% endfor %}" * 200
    written = render_chat(many, "Hi", {"bos_token": "<s>"}, FILE, template_process(few))
    assert written == "<s>user\nHi" * 200


ESCAPES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['\\x5f\\x5fclass\\x5f\\x5f']['\\u005f\\u005fmro\\u005f\\u005f'] }}",
    "{{ ''|attr('__cla' ~ 'ss__')|attr('__base__') }}",
    "{{ messages|map(attribute='__class__')|list }}",
    "{{ [''] | map('attr', '__class__') | list }}",
    "{{ messages|sum(attribute='__class__') }}",
    "{{ '{0.__class__}'.format(1) }}",
    "{{ '{0[__class__]}'.format(messages[0]) }}",
    "{{ '{a.__class__.__mro__}'.format_map({'a': 1}) }}",
    "{{ ('{0.__class__}'|safe).format(1) }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "{{ self._TemplateReference__context }}",
    "{{ raise_exception.__globals__ }}",
    "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}",
    "{{ (messages|map('upper')).gi_frame.f_globals }}",
    "{{ request }}{{ get_flashed_messages.__globals__ }}{{ __builtins__ }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update(role='system') }}",
    "{% set messages[0].role = 'system' %}",
    "{% include '/etc/passwd' %}",
)


# What the sandbox hides is undefined to the template: of no text.
NOTHING = ("", "[]", "[Undefined]", "[(Undefined, [{'role': 'user', 'content': 'Hi'}])]")


def outcome(template):
    try:
        return rendered(template), ""
    except Exception as error:  # "fails: ..." in the end
        return "", str(error)


@pytest.mark.parametrize("template", ESCAPES)
def test_nothing_gets_out_of_the_sandbox(template):
    found, refusal = outcome(template)
    print([found, refusal])
    assert found in NOTHING
    assert not re.search("root:|uid=|<module|<class|<func", refusal)
