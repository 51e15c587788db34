"""Replies computed in a pool of processes, which survives the death of any of them."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress

from flwr.app import Message

from engine.allocator import keep_pages
from engine.client_call import LoadApp, Settings, call_client, take_part_in_a_run

MAX_DEATHS = 3
"""Times the pool may break while the same message waits before the run is given up."""


class Processes:
    """A `engine.local_grid.Computer` with a process for each worker.

    A worker that dies (killed, or out of memory) takes the pool with it; a new pool is made and what was
    under way is computed again. Clients are deterministic, so nothing else changes.

    Parameters
    ----------
    load_app : callable
        Returns the ClientApp; called in each process.
    settings : Mapping
        The run configuration.
    num_workers : int
        >= 1.
    preload : sequence of str
        Modules to import once, before the workers fork from one process: they share that memory.
    """

    def __init__(
        self, load_app: LoadApp, settings: Settings, *, num_workers: int, preload: Sequence[str] = ()
    ) -> None:
        if num_workers < 1:
            raise ValueError(f"a pool needs at least 1 worker, got {num_workers}; 0 workers is no pool")
        self.num_workers = num_workers
        self._load_app, self._settings = load_app, settings
        # Not fork: this process has threads. Not spawn: every worker would import for seconds.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(preload))
        self._waiting: dict[str, tuple[Message, Future[Message]]] = {}
        self._deaths: dict[str, int] = {}
        self._pool = self._make_pool()

    def start(self, message: Message) -> None:
        """Hand a message to the next free worker."""
        try:
            future = self._submit(message)
        except BrokenProcessPool:
            self._replace_pool()
            future = self._submit(message)
        self._waiting[message.metadata.message_id] = message, future

    def finished(self, message_id: str) -> Message | None:
        """Return the reply if it is there.

        Raises
        ------
        RuntimeError
            If workers died `MAX_DEATHS` times while they computed it.
        """
        future = self._waiting[message_id][1]
        if not future.done():
            return None
        try:
            reply = future.result()
        except BrokenProcessPool as broken:
            self._deaths[message_id] = self._deaths.get(message_id, 0) + 1
            if self._deaths[message_id] >= MAX_DEATHS:
                raise RuntimeError(
                    f"workers died {MAX_DEATHS} times while message {message_id} was computed"
                    f"{self._last_words()}; the state is saved up to the last merge. If memory ran out, go "
                    "on with fewer --workers, or start again with a smaller train.batch-size, more "
                    "train.micro-batches, or a smaller model.kept-mb"
                ) from broken
            self._replace_pool()
            return None
        del self._waiting[message_id]
        self._deaths.pop(message_id, None)
        return reply

    def close(self) -> None:
        """End the workers; what they compute is lost."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in self._workers:
            process.terminate()
        self._waiting.clear()

    def _submit(self, message: Message) -> Future[Message]:
        return self._pool.submit(call_client, self._load_app, self._settings, message)

    def _make_pool(self) -> ProcessPoolExecutor:
        pool = ProcessPoolExecutor(self.num_workers, mp_context=self._context, initializer=_begin)
        # Starts the process that the workers fork from, and them: they import while the server does.
        before = set(multiprocessing.active_children())
        for _ in range(self.num_workers):
            pool.submit(os.getpid)
        # Their exit codes say how they died; nobody else's are of interest.
        self._workers = set(multiprocessing.active_children()) - before
        return pool

    def _replace_pool(self) -> None:
        """Make a new pool, and have everything that was lost computed anew."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = self._make_pool()
        for message_id, (message, future) in self._waiting.items():
            if future.cancelled() or isinstance(future.exception(), BrokenProcessPool):
                self._waiting[message_id] = message, self._submit(message)

    def _last_words(self) -> str:
        """Say how the dead ended, where that is known; the others were ended with the pool."""
        codes = {process.exitcode for process in self._workers} - {None, 0, -signal.SIGTERM}
        words = [f"killed by {signal.Signals(-code).name}" for code in codes if code and code < 0]
        words += [f"ended with code {code}" for code in codes if code and code > 0]
        return f" ({', '.join(sorted(words))})" if words else ""


def _begin() -> None:
    """Make a new process a worker of the run."""
    # Ctrl-C in a terminal reaches every process; it is for the server, which ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    take_part_in_a_run()
    keep_pages()


def end_with_parent() -> None:
    """End this process once the one that started it is gone, even by SIGKILL: nothing is left behind."""
    threading.Thread(target=_end_when_parent_has, daemon=True).start()


def _end_when_parent_has() -> None:
    parent = multiprocessing.parent_process()
    with suppress(Exception):
        if parent is not None:
            parent.join()
    os._exit(1)
