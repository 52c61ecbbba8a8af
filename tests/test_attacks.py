"""Attack every command with hostile files and command lines; tests/attacks/campaign.py makes more attacks."""

import os
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from attacks import promise
from attacks.promise import run_command
from attacks.surroundings import memory_limited
from support.sweeps import some_of

pytest.importorskip("gguf", reason="the package gguf writes the good files")
pytest.importorskip("tokenizers", reason="the commands read the vocabularies of production models")
pytest.importorskip("jinja2", reason="the commands render chat templates")
if sys.platform == "win32":
    pytest.skip("the attacks replace files by links, pipes and devices", allow_module_level=True)

from attacks.attack import Attack, Attacker, prepare
from attacks.good_files import PLAIN, READERS

SEED, SIZE = 1, 35


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("attacks")
    prepare(folder)
    return folder


@pytest.mark.parametrize("shard", some_of(range(12), every=12, sweep=4))
def test_commands_keep_their_promises_under_attack(shard, base):
    attacker, ends, broken = Attacker(base, SEED, seconds=60), Counter(), []
    with memory_limited():
        for number in range(shard * SIZE, (shard + 1) * SIZE):
            attack = attacker(number)
            ends[attack.kind, attack.ended.code] += 1
            again = f"PYTHONPATH=tests python -m attacks.campaign --seed {SEED} --only {number}"
            broken += [f"{again}: {attack.shell} {attack.damage}\n{line}" for line in attack.ended.broken]
    print(ends)
    assert not broken, "\n\n".join(broken)


@pytest.mark.parametrize("item", some_of([*READERS, ""], every=10, sweep=3))
def test_the_commands_of_attacks_work_with_good_files(item, base):
    """Otherwise an attack would prove nothing."""
    attacker = Attacker(base, SEED)
    for line in READERS.get(item, PLAIN):
        words = line.replace("FILE", item).split(" ")
        attacker.clean()
        ended = attacker.run(Attack(0, "none", "", words, {}))
        print(words, ended.code, ended.err)
        assert (ended.code in (0, 1), ended.broken) == (True, [])


def leave(name):
    Path(name).write_text("x")
    raise SystemExit(2)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: 1 / 0, "an exception escapes"),
        (lambda: time.sleep(5), "Hung"),
        (lambda: print("\x1b[2J"), r"stdout has ['\x1b']"),
        (lambda: print("\x1b[8m"), r"stdout has ['\x1b']"),
        (lambda: print("\u202e", file=sys.stderr), "stderr has"),
        (lambda: print("x" * 3000, file=sys.stderr), "3,000 characters"),
        (lambda: os.write(2, b"panicked"), "written past stdout and stderr: 'panicked'"),
        (lambda: print('{"a": NaN}'), "NaN is not JSON"),
        (lambda: print('{"a": 1, "a": 1}'), "a name occurs twice"),
        (lambda: print('{"schema": "microgpt.patch/1"}'), "against its schema"),
        (lambda: sys.exit(3), "exit code 3"),
        (lambda: sys.exit(2), "0 lines on stderr"),
        (lambda: leave("new"), "changed files: ['new']"),
        (lambda: leave("good"), "changed files: ['good']"),
        (lambda: leave(".x.tmp"), "left behind"),
        (lambda: bytes(1 << 40), "more memory than there is"),
    ],
)
def test_reports_every_broken_promise(act, words, tmp_path, monkeypatch):
    monkeypatch.setattr(promise, "click_command", lambda name: lambda **_: act())
    (tmp_path / "good").write_text("good")
    ended = run_command(["trace", "--json"], tmp_path, environment={}, seconds=0.5)
    print(ended.broken)
    assert any(words in broken for broken in ended.broken)
