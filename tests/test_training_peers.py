"""A peer is timed only if it computes what we do; and docs/benchmarks.md has what the script prints."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from microgpt_trace import Config

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))
import peers  # noqa: E402
import speed  # noqa: E402

SMALL = Config(n_embd=8, n_head=2)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(speed, "COMPARED", 5)


def workload(batch_size=1, **changes):
    return speed.Workload("small", replace(SMALL, **changes), batch_size, speed.COMPARED)


def entered(name, given):
    """The contender that a peer becomes, or SystemExit."""
    beginning = speed.Beginning.of(given)
    peer = peers.installed(name)[name](given.config, beginning.values, speed.SCHEDULE_STEPS, given.lr)
    return speed.enter(name, peer, beginning)


def test_plain_python_computes_the_same():
    contender = entered("plain Python", workload())
    print(contender.loss_gap, contender.update_gap)
    contender.take_turn(iter((1.0, 3.0)).__next__)
    assert contender.seconds == [2 / speed.COMPARED]


@pytest.mark.parametrize("batch_size", [1, 5])
def test_pytorch_computes_the_same(batch_size):
    pytest.importorskip("torch").set_num_threads(1)
    contender = entered("PyTorch eager", workload(batch_size, n_layer=2))
    print(contender.loss_gap, contender.update_gap)


@pytest.mark.parametrize("change", [{"lr": 0.01002}, {"batch_size": 2}, {"config": replace(SMALL, n_head=4)}])
def test_what_computes_something_else_is_refused(change):
    given = workload()
    with pytest.raises(SystemExit, match="computes something else"):
        speed.enter("another", speed.Ours(replace(given, **change)), speed.Beginning.of(given))


def test_who_is_faster_than_ours_is_said():
    results = {"one": {"ours": 2.0, "a": 1.0, "b": 2.5}, "two": {"ours": 2.0, "a": 3.0, "b": 1.5}}
    contenders = {
        name: [speed.Contender(who, None, None, 1, 1, 0, 0, 0, [s]) for who, s in each.items()]
        for name, each in results.items()
    }
    assert speed.faster(contenders) == "one: a (0.50); two: b (0.75)"


def test_the_page_has_columns_and_rows_that_the_script_prints():
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    tables = re.findall(r"^\| (?:CPU|wall) time, .*?\n\n", text, re.MULTILINE | re.DOTALL)
    assert tables
    for table in tables:
        lines = [line.split("|")[1:-1] for line in table.splitlines() if line]
        header, _, *rows = [[cell.strip() for cell in line] for line in lines]
        assert header[1:] == [speed.OURS, *peers.PEERS]
        assert {row[0] for row in rows} <= {work.name for work in speed.WORKLOADS}
