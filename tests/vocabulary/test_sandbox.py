"""A process that may hang, crash or want all memory, and what is left of that here: one line."""

import copy
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.sweeps import in_sweep

from microgpt_trace.errors import FileFormatError, InputError, RunError
from microgpt_trace.vocabulary.sandbox import MIB, Isolated, Limits

FILE = Path("model.gguf")
AMPLE = Limits(seconds=30, memory=400 * MIB)
posix = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
bounded = pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds the memory of a process")


OWN = "support.isolated_functions"


def isolated(function, **limits):
    """A function of the tests, or "module:name" of the standard library, in a process."""
    name = function if ":" in function else f"{OWN}:{function}"
    return Isolated(name, "its program", Limits(**{**vars(AMPLE), **limits}))


def failure(function, *arguments, **limits):
    with pytest.raises(FileFormatError, match=r"^model\.gguf: its program ") as caught:
        isolated(function, **limits)(FILE, *arguments)
    print(caught.value)
    assert str(caught.value).isprintable()
    return str(caught.value).removeprefix("model.gguf: its program ")


def gone(pid, seconds=5):
    """Whether a process ends within a time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        stat = Path(f"/proc/{pid}/stat")  # a process that ended stays listed until somebody asks for it
        if stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return True
        time.sleep(0.01)
    return False


def test_values_come_back_as_they_were():
    values = [None, [1, 2.5, "é\n\x00"], "\udcff日", {"a": [True]}, "a" * 300_000]
    assert isolated("copy:copy")(FILE, values) == values


def test_what_does_not_end_is_ended():
    start = time.monotonic()
    assert failure("endless", seconds=0.2) == "is not done after 0.2 seconds"
    took = time.monotonic() - start
    print(took, 0.2)
    assert 0.2 <= took < 5


@bounded
def test_memory_is_bounded():
    assert failure("much", 300 * MIB, memory=200 * MIB) == "takes more than 200 MiB of memory"
    assert isolated("much", memory=200 * MIB)(FILE, 100 * MIB) == 100 * MIB


def test_an_answer_is_bounded():
    assert failure("operator:mul", "a", 2 * MIB, answer=MIB) == "answers with more than 1 MiB"
    assert len(isolated("operator:mul", answer=MIB)(FILE, "a", MIB // 2)) == MIB // 2


@posix
@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("", "crashes (SIGABRT)"),
        ("\nthread overflowed its stack\nbacktrace\n", "crashes (SIGABRT: thread overflowed its stack)"),
        ("memory allocation of 99 bytes failed\n", "takes more than 400 MiB of memory"),
        ("x" * 90_000, f"crashes (SIGABRT: {'x' * 200})"),
    ],
)
def test_a_crash_is_one_line_and_silent(capfd, said, expected):
    found = failure("abort", said)
    assert found == expected
    assert capfd.readouterr().err == ""


def test_an_exit_and_a_module_that_cannot_be_imported_are_failures():
    assert failure("os:_exit", 3) == "crashes (exit status 3)"
    with pytest.raises(FileFormatError, match="its program fails: No module named 'nothing'"):
        Isolated("nothing:at_all", "its program", AMPLE)(FILE)


def test_what_it_prints_goes_nowhere_and_blocks_nobody(capfd):
    assert isolated("noisy")(FILE, MIB) == "done"
    assert capfd.readouterr() == ("", "")


def test_errors_keep_their_kind_or_become_a_line():
    with pytest.raises(InputError, match=r"^model\.gguf: not so$"):
        isolated("refuse")(FILE, "not so")
    found = failure("fail", "two\nlines of <f at 0x7f00aa> " + "x" * 9999)
    assert found.startswith("fails: two lines of <f> x")
    assert len(found) < 320


@pytest.mark.parametrize("how", ["refuse", "endless"])
def test_a_failure_costs_the_process_and_not_the_next_call(how):
    function = isolated("count")
    assert [function(FILE), function(FILE)] == [1, 2]  # it stays for the next call
    function.function, function.limits = f"{OWN}:{how}", Limits(0.2, AMPLE.memory)
    with pytest.raises((FileFormatError, InputError)):
        function(FILE, "no")
    function.function, function.limits = f"{OWN}:count", AMPLE
    assert function(FILE) == 1


@posix
def test_a_process_that_died_meanwhile_is_replaced():
    function = isolated("os:getpid")
    first = function(FILE)
    os.kill(first, signal.SIGKILL)
    assert gone(first)
    assert function(FILE) != first


def test_threads_get_their_own_answers():
    function = isolated("slowly")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: function(FILE, i, 0.001), range(40)))
    assert found == list(range(40))


@posix
def test_ctrl_c_is_for_us_and_ends_it(default_signals):
    function = isolated("os:getpid")
    pid = function(FILE)
    assert os.getsid(pid) != os.getsid(0)
    os.kill(pid, signal.SIGINT)
    assert function(FILE) == pid
    function.function = f"{OWN}:endless"
    main = threading.main_thread().ident
    threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        function(FILE)
    assert gone(pid, 0.1)


PARENT = """
import os, sys
from pathlib import Path
from microgpt_trace.vocabulary.sandbox import Isolated, Limits
print("main", flush=True)
call = Isolated("os:getpid", "its program", Limits(30, 1 << 29))
print(call(Path("f")), flush=True)
{then}
"""


BUSY = """
import threading
call.function, call.limits = "support.isolated_functions:endless", Limits(0.4, 1 << 29)
threading.Timer(0.1, os.kill, (os.getpid(), 9)).start()
call(Path("f"))"""


@posix
@pytest.mark.parametrize("then", ["", "os.kill(os.getpid(), 9)", in_sweep(BUSY)])
def test_nobody_is_left_behind(tmp_path, then):
    """By a process that ends, is killed, or is killed while the other is busy, which ends by its own clock.
    The main module of that process has run once."""
    script = tmp_path / "script.py"
    script.write_text(PARENT.format(then=then))
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, script], capture_output=True, encoding="utf-8", env=paths)
    main, pid = done.stdout.split()
    assert (main, done.stderr) == ("main", "")
    assert gone(int(pid))


def test_a_copy_has_a_process_of_its_own():
    function = isolated("os:getpid")
    copies = [function, copy.deepcopy(function), pickle.loads(pickle.dumps(function))]
    assert len({one(FILE) for one in copies}) == 3


def test_a_forked_process_starts_its_own_and_leaves_ours(monkeypatch):
    function = isolated("os:getpid")
    first, ours = function(FILE), function._running
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)  # as after a fork
        assert function(FILE) != first
        ours.end()
        function._running.end()
    assert ours._process.poll() is None
    ours._process.kill()
    ours._process.communicate()


def test_without_python_no_process_starts(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(RunError, match=r"^model\.gguf: cannot start Python for its program"):
        isolated("os:getpid")(FILE)


def test_it_loads_next_to_nothing():
    heavy = {"site", "numpy", "dataclasses", "subprocess", "threading", "typer", "jinja2", "tokenizers"}
    assert heavy & set(isolated("loaded")(FILE)) == set()
