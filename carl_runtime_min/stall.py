"""A phase that no longer moves: it tells where it hangs, and ends so as to go on."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import threading
import time
from typing import Any

import torch

from carl_runtime_min.fit import Observer
from carl_runtime_min.resume import Stopped
from carl_runtime_min.run import Run, write_json


class Watchdog(Observer):
    """Acts after `seconds` without a forward, or as a trainer callback, a step.

    First it prints the stacks of all threads and asks for a stop; what the main thread
    waits for in the middle of a step is given up, and the step before it is saved.
    After as long again it ends the process, and all of a launch, with code 85.
    """

    def __init__(self, run: Run, seconds: float) -> None:
        self.run, self.seconds = run, seconds
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.inside = self.over = False  # inside a step, whose weights are the last's
        self.moved()

    def moved(self, *_: Any) -> None:
        self.last = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kw: Any) -> None:
        self.listen(kw["model"])

    def listen(self, model: Any) -> None:
        """Take each forward of `model` for a move; from the first one on, watch."""
        model.get_input_embeddings().register_forward_hook(self.moved)
        self.moved()
        signal.signal(signal.SIGURG, self.give_up)  # by default it is ignored
        if not self.thread.is_alive():
            self.thread.start()

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.inside = not torch.distributed.is_initialized()  # others would wait
        self.moved()

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.inside = False

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self.over = True

    def give_up(self, number: int, frame: Any) -> None:
        if self.inside:
            raise Stopped

    def watch(self) -> None:
        for asked in (False, True):
            self.moved()
            while time.monotonic() - self.last < self.seconds:
                if self.over:
                    return faulthandler.cancel_dump_traceback_later()
                # should one thread let no other run, then this one neither
                faulthandler.dump_traceback_later(3 * self.seconds, exit=True, file=2)
                time.sleep(min(1, self.seconds / 10))
            with contextlib.suppress(OSError):  # a full disk
                self.run.say(f"{self.run.phase}: nothing moved for {self.seconds:g} s")
                (self.run.path / "stop").touch()
            if not asked:
                faulthandler.dump_traceback(2)
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGURG)
        with contextlib.suppress(OSError):
            code = {"code": 85, "phase": self.run.phase, "stalled": True}
            write_json(self.run.path / "exit.json", code)
        os._exit(85)
