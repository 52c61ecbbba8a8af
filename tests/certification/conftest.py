"""Certificates of a module of tests run tokenizers and chat templates in one separate process."""

import threading
from types import SimpleNamespace

import pytest

from microgpt_trace.vocabulary import sandbox


class NoTimer:
    """Stands for a timer that never rings. The separate process also limits its own time."""

    def __init__(self, seconds, function):
        self.daemon = True

    def start(self):
        pass

    cancel = join = start


@pytest.fixture(scope="module", autouse=True)
def one_process():
    """Start the separate process once, and no timer for each call. Starting a process for each model, and a
    thread for each of hundreds of texts, takes as long as the rest of a certificate."""
    start, running = sandbox._Running, []

    def started():
        if not running or not running[0].alive():
            running[:] = [start()]
        return running[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox, "_Running", started)
        patch.setattr(sandbox, "threading", SimpleNamespace(**vars(threading) | {"Timer": NoTimer}))
        yield
    for process in running:
        process.end()
