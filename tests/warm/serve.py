"""The server behind warm processes: imports once, then forks for whoever asks, until its standard input ends."""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
import types
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

# What this project imports, and what that imports late. Nothing of the project itself.
PRELOADED = (
    "torch",
    "torch._dynamo",
    "transformers",
    "transformer_lens.config",
    "transformers.models.llama.modeling_llama",
    "datasets",
    "safetensors.torch",
    "scipy.optimize",
    "scipy.stats",
    "sklearn.linear_model",
    "matplotlib.pyplot",
    "rouge_score.rouge_scorer",
    "jinja2",
    "typer",
    "ipykernel.ipkernel",
)


class _Forked(BaseException):
    """Takes a child out of the server's loop, with what it is to run."""


def serve(path: str) -> None:
    """Answer requests. A connection that closes early has its process killed.

    Raises:
        _Forked: In each child.
    """
    running: dict[int, socket.socket] = {}
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    print("listening", flush=True)
    while True:
        ready, _, _ = select.select([0, listener, *running.values()], [], [], 0.02 if running else None)
        for process, connection in list(running.items()):
            if connection in ready:
                os.kill(process, signal.SIGKILL)
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                _say(running.pop(process), os.waitstatus_to_exitcode(status), last=True)
        if 0 in ready:
            for process in running:
                os.kill(process, signal.SIGKILL)
            return
        if listener in ready:
            connection, _ = listener.accept()
            _, streams, _, _ = socket.recv_fds(connection, 1, 3)
            asked = json.loads(connection.makefile().readline())
            _import()
            if not (process := os.fork()):
                for descriptor in (listener, connection, *running.values()):
                    descriptor.close()
                raise _Forked(asked, streams)
            for stream in streams:
                os.close(stream)
            running[process] = connection
            _say(connection, process)


def _import() -> None:
    """Import everything once, and let no child's garbage collector walk through it."""
    if PRELOADED[-1] not in sys.modules:
        for name in PRELOADED:
            importlib.import_module(name)
        gc.freeze()


def _say(connection: socket.socket, number: int, *, last: bool = False) -> None:
    with suppress(BrokenPipeError):
        connection.sendall(f"{number}\n".encode())
    if last:
        connection.close()


def become(asked: dict[str, Any], streams: list[int]) -> None:
    """Do what the interpreter does with `-c code` or `-m module`."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    # Else all children would draw the same.
    sys.modules["numpy"].random.seed()
    option, what, *words = asked["words"]
    sys.path[0] = "" if option == "-c" else asked["folder"]
    if option == "-m":
        sys.argv = [what, *words]
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [option, *words]
        main = types.ModuleType("__main__")
        sys.modules["__main__"] = main
        exec(compile(what, "<string>", "exec"), main.__dict__)


def ended(run: Callable[[], None]) -> int:
    """Run something and end the interpreter as it ends itself, short of taking all that was imported apart.

    Returns:
        The exit code.
    """
    code = 0
    try:
        run()
    except SystemExit as stop:
        code = stop.code & 0xFF if isinstance(stop.code, int) else 0 if stop.code is None else 1
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def main() -> None:
    """Serve until told to stop, and in a child be the process that was asked for."""
    request: list[Any] = []
    try:
        serve(sys.argv[1])
    except _Forked as forked:
        request.extend(forked.args)
    code = ended(partial(become, *request)) if request else 0
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main()
