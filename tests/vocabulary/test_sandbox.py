"""A function in a separate process may hang, crash or use up memory. The caller gets a one-line error."""

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
from microgpt_trace.vocabulary.sandbox import MIB, Isolated, Limits, within

FILE = Path("model.gguf")
AMPLE = Limits(seconds=30, memory=400 * MIB)
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
MODULE = "support.isolated_functions"


def isolated(function, **limits):
    """Isolate a function of the tests, or "module:name" of the standard library."""
    name = function if ":" in function else f"{MODULE}:{function}"
    return Isolated(name, "its program", Limits(**{**vars(AMPLE), **limits}))


def failure(function, *arguments, **limits):
    with pytest.raises(FileFormatError, match=r"^model\.gguf: its program ") as caught:
        isolated(function, **limits)(FILE, *arguments)
    print(caught.value)
    assert str(caught.value).isprintable()
    return str(caught.value).removeprefix("model.gguf: its program ")


def gone(pid, seconds=5):
    """Return True if a process ends within some seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        stat = Path(f"/proc/{pid}/stat")  # a zombie stays listed until its parent waits for it
        if stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return True
        time.sleep(0.01)
    return False


def test_values_return_unchanged():
    values = [None, [1, 2.5, "é\n\x00"], "\udcff日", {"a": [True]}, "a" * 300_000]
    assert isolated("copy:copy")(FILE, values) == values


def test_limits_time():
    start = time.monotonic()
    assert failure("endless", seconds=0.2) == "does not finish within 0.2 seconds"
    seconds = time.monotonic() - start
    print(seconds, 0.2)
    assert 0.2 <= seconds < 5


def test_several_calls_have_one_time_limit():
    first, endless = isolated("count"), isolated("endless")
    with within(0.6):
        assert first(FILE) == 1
        for function in (endless, first):  # `endless` uses up the time, and nothing starts after that
            with pytest.raises(RunError, match="together do not finish within 1 seconds"), within(60):
                function(FILE)
    assert first(FILE) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")
def test_limits_memory():
    assert failure("allocate", 300 * MIB, memory=200 * MIB) == "takes more than 200 MiB of memory"
    assert isolated("allocate", memory=200 * MIB)(FILE, 100 * MIB) == 100 * MIB


def test_limits_the_size_of_an_answer():
    assert failure("operator:mul", "a", 2 * MIB, answer=MIB) == "returns more than 1 MiB"
    assert len(isolated("operator:mul", answer=MIB)(FILE, "a", MIB // 2)) == MIB // 2


@posix
@pytest.mark.parametrize(
    ("stderr", "expected"),
    [
        ("", "crashes (SIGABRT)"),
        ("\nthread overflowed its stack\nbacktrace\n", "crashes (SIGABRT: thread overflowed its stack)"),
        ("memory allocation of 99 bytes failed\n", "takes more than 400 MiB of memory"),
        ("x" * 90_000, f"crashes (SIGABRT: {'x' * 200})"),
    ],
)
def test_a_crash_becomes_one_line_and_prints_nothing(capfd, stderr, expected):
    assert failure("abort", stderr) == expected
    assert capfd.readouterr().err == ""


def test_an_exit_and_a_failed_import_are_failures():
    assert failure("os:_exit", 3) == "crashes (exit status 3)"
    with pytest.raises(FileFormatError, match="its program fails: No module named 'nothing'"):
        Isolated("nothing:at_all", "its program", AMPLE)(FILE)


def test_printed_output_is_dropped_and_does_not_block(capfd):
    assert isolated("print_much")(FILE, MIB) == "done"
    assert capfd.readouterr() == ("", "")


def test_our_errors_keep_their_class_and_others_become_one_line():
    with pytest.raises(InputError, match=r"^model\.gguf: not so$"):
        isolated("refuse")(FILE, "not so")
    line = failure("fail", "two\nlines of <f at 0x7f00aa> " + "x" * 9999)
    assert line.startswith("fails: two lines of <f> x")
    assert len(line) < 320


@pytest.mark.parametrize("failing", ["refuse", "endless"])
def test_a_new_process_serves_the_call_after_a_failure(failing):
    function = isolated("count")
    assert [function(FILE), function(FILE)] == [1, 2]  # one process serves both calls
    function.function, function.limits = f"{MODULE}:{failing}", Limits(0.2, AMPLE.memory)
    with pytest.raises((FileFormatError, InputError)):
        function(FILE, "no")
    function.function, function.limits = f"{MODULE}:count", AMPLE
    assert function(FILE) == 1


@posix
def test_replaces_a_process_that_died_between_calls():
    function = isolated("os:getpid")
    first = function(FILE)
    os.kill(first, signal.SIGKILL)
    assert gone(first)
    assert function(FILE) != first


def test_threads_get_their_own_answers():
    function = isolated("wait")
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda i: function(FILE, i, 0.001), range(40))) == list(range(40))


@posix
def test_ctrl_c_ends_the_process_through_its_owner(default_signals):
    function = isolated("os:getpid")
    pid = function(FILE)
    assert os.getsid(pid) != os.getsid(0)
    os.kill(pid, signal.SIGINT)
    assert function(FILE) == pid
    function.function = f"{MODULE}:endless"
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
def test_no_process_outlives_its_owner(tmp_path, then):
    """The owner ends, is killed, or is killed while the process is busy, which its own timer then ends. The
    owner's main module runs only once."""
    script = tmp_path / "script.py"
    script.write_text(PARENT.format(then=then))
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, script], capture_output=True, encoding="utf-8", env=paths)
    main, pid = done.stdout.split()
    assert (main, done.stderr) == ("main", "")
    assert gone(int(pid))


def test_a_copy_has_its_own_process():
    function = isolated("os:getpid")
    copies = [function, copy.deepcopy(function), pickle.loads(pickle.dumps(function))]
    assert len({one(FILE) for one in copies}) == 3


def test_a_fork_starts_a_new_process_and_leaves_that_of_its_parent(monkeypatch):
    function = isolated("os:getpid")
    first, parents = function(FILE), function._running
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)  # simulates a fork
        assert function(FILE) != first
        parents.end()
        function._running.end()
    assert parents._process.poll() is None
    parents._process.kill()
    parents._process.communicate()


def test_reports_that_python_cannot_start(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(RunError, match=r"^model\.gguf: cannot start Python for its program"):
        isolated("os:getpid")(FILE)


def test_the_process_imports_no_large_module():
    heavy = {"site", "numpy", "dataclasses", "subprocess", "threading", "typer", "jinja2", "tokenizers"}
    assert heavy & set(isolated("modules")(FILE)) == set()
