"""Test the benchmarks: the check that a peer computes the same, names in recordings of llama.cpp, figures of
tables, and that docs/benchmarks.md has the tables that the scripts print."""

import ast
import re
import sys
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from microgpt_trace import Config

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))
import contenders  # noqa: E402
import models  # noqa: E402
import peers  # noqa: E402
import speed  # noqa: E402
from contenders import Contender  # noqa: E402
from file_types import PAGE_HEADER, cell  # noqa: E402
from processes import Usage  # noqa: E402
from table import print_markdown  # noqa: E402

PAGE = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")


def usages_of(*walls):
    return [Usage(wall, 2 * wall, 100) for wall in walls]


@pytest.mark.parametrize(("single", "ratios"), [(2.0, "1.50, 0.50"), (0.25, "3.00, 4.00")])
def test_a_cell_shows_our_best_time_and_ratios_to_the_best_times_of_llama_cpp(single, ratios):
    entrants = [
        Contender(f"{name}{where}", [], f"peer{where}" if name == "ours" else "")
        for where in ("", ", one core")
        for name in ("ours", "peer")
    ]
    usages = {
        "ours": usages_of(0.9, 0.75), "peer": usages_of(0.5, 0.6),
        "ours, one core": usages_of(1.0, 1.2), "peer, one core": usages_of(4.0, single),
    }  # fmt: skip
    assert cell(entrants, usages) == f"0.75 s: {ratios}"


@pytest.mark.parametrize(("seconds", "turns"), [(-1, 1), (1e9, 3)])
def test_no_turn_but_the_first_starts_after_the_time_limit(monkeypatch, seconds, turns):
    monkeypatch.setattr(contenders, "measure", lambda command, to_terminal: usages_of(1)[0])
    both = [contenders.Contender(name, []) for name in "ab"]
    assert {name: len(each) for name, each in contenders.take_turns(both, 3, seconds).items()} == {
        "a": turns, "b": turns,
    }  # fmt: skip


def test_the_page_has_the_table_that_models_prints(capsys, monkeypatch):
    print_markdown(PAGE_HEADER, [["a model", *["0.30 s: 1.20"] * 4]])
    header, rule, row = capsys.readouterr().out.strip().splitlines()
    assert f"{header}\n{rule}\n| SmolLM2-135M" in PAGE
    assert row == "| a model | 0.30 s: 1.20 | 0.30 s: 1.20 | 0.30 s: 1.20 | 0.30 s: 1.20 |"
    monkeypatch.setattr(sys, "argv", ["models.py", "--help"])  # works without llama.cpp
    with pytest.raises(SystemExit, match="0"):
        models.main()
    assert "types" in capsys.readouterr().out


def test_names_that_benchmarks_import_from_the_package_exist():
    """Tests do not run the benchmarks, and some benchmarks need packages that are not installed."""
    for path in sorted((ROOT / "benchmarks").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("microgpt_trace"):
                module = import_module(node.module)
                missing = [a.name for a in node.names if not hasattr(module, a.name)]
                assert all(find_spec(f"{node.module}.{name}") for name in missing), (path.name, missing)


SMALL = Config(n_embd=8, n_head=2)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(speed, "COMPARED", 5)


def workload(batch_size=1, **changes):
    return speed.Workload("small", replace(SMALL, **changes), batch_size, speed.COMPARED)


def entered(name, work):
    """Return a peer as a contender. Raises SystemExit if it computes something else."""
    start = speed.Start.of(work)
    peer = peers.installed(name)[name](work.config, start.values, speed.SCHEDULE_STEPS, work.lr)
    return speed.enter(name, peer, start)


def test_plain_python_computes_the_same_as_ours():
    contender = entered("plain Python", workload())
    print(contender.loss_gap, contender.update_gap)
    contender.take_turn(iter((1.0, 3.0)).__next__)
    assert contender.seconds == [2 / speed.COMPARED]


@pytest.mark.parametrize("batch_size", [1, 5])
def test_pytorch_computes_the_same_as_ours(batch_size):
    pytest.importorskip("torch").set_num_threads(1)
    contender = entered("PyTorch eager", workload(batch_size, n_layer=2))
    print(contender.loss_gap, contender.update_gap)


@pytest.mark.parametrize("change", [{"lr": 0.01002}, {"batch_size": 2}, {"config": replace(SMALL, n_head=4)}])
def test_rejects_a_peer_that_computes_something_else(change):
    work = workload()
    with pytest.raises(SystemExit, match="computes something else"):
        speed.enter("another", speed.Ours(replace(work, **change)), speed.Start.of(work))


def test_lists_the_peers_that_are_faster_than_ours():
    results = {"one": {"ours": 2.0, "a": 1.0, "b": 2.5}, "two": {"ours": 2.0, "a": 3.0, "b": 1.5}}
    contenders = {
        name: [speed.Contender(peer, None, None, 1, 1, 0, 0, 0, [s]) for peer, s in each.items()]
        for name, each in results.items()
    }
    assert speed.faster(contenders) == "one: a (0.50); two: b (0.75)"


def test_the_page_has_columns_and_rows_that_the_script_prints():
    tables = re.findall(r"^\| (?:CPU|wall) time, .*?\n\n", PAGE, re.MULTILINE | re.DOTALL)
    assert tables
    for table in tables:
        lines = [line.split("|")[1:-1] for line in table.splitlines() if line]
        header, _, *rows = [[cell.strip() for cell in line] for line in lines]
        assert header[1:] == [speed.OURS, *peers.PEERS]
        assert {row[0] for row in rows} <= {work.name for work in speed.WORKLOADS}
