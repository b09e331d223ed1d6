"""Talking to the runner (``runner.c``): requests in, answers and endings out."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from runners.emulator.parts import GO_ON
from space.errors import InputError

MOST_TOKENS = 65536  # of the runner's buffers
_WARM_UP = "warm-up.onnx"
_START_SECONDS = 60.0
_DISK_FULL = "the temporary folder may be full"


@dataclass(frozen=True)
class Request:
    """What one fork of the runner shall do.

    Attributes:
        model: file.
        fields: of the request's line, but for the model (see ``runner.c``).
    """

    model: Path
    fields: tuple[str, ...]

    @classmethod
    def measure(cls, model: Path, tokens: int, runs: int) -> Request:
        """Time or count (``runs`` 0) a model on one text. Raises InputError: bad file or number of tokens."""
        if not 1 <= tokens <= MOST_TOKENS:
            raise InputError(f"A model cannot be timed at {tokens} tokens.", f"Give at least 1, at most {MOST_TOKENS}.")
        return cls(model, ("measure", str(tokens), str(vocabulary_size(model)), str(runs)))


@dataclass(frozen=True)
class Answer:
    """What a fork of the runner found; see ``runner.c``."""

    peak_heap_bytes: int
    nanoseconds: list[int]
    outputs: list[float | None]


@dataclass(frozen=True)
class Runner:
    """How to start the runner.

    Attributes:
        what: it is called in messages ("The emulator").
        where: a model that fails there "cannot be run ..." ("on ARM").
        command: comes before the program: the emulator with its options; empty for this machine's.
        program: the compiled runner.
        library: ONNX Runtime, where the program sees it.
        warm_up: model that is run first, or None.
        jobs: forks at a time.
        core: to be bound to, None for any.
        arena: see ``model.h``.
    """

    what: str
    where: str
    command: tuple[str, ...]
    program: Path
    library: Path
    warm_up: Path | None
    jobs: int = 1
    core: int | None = None
    arena: bool = False


def vocabulary_size(model: Path) -> int:
    """Rows of the table that a model looks its ``input_ids`` up in, 1 where none is found.

    Raises:
        InputError: there is no such file or it is not ONNX.
    """
    try:
        graph = onnx.load(str(model)).graph
    except (DecodeError, ValueError):
        raise InputError(f"{model} is not an ONNX file.") from None
    except OSError as error:
        raise InputError(f"Cannot read {model}: {error.strerror or error}.") from None
    sizes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        looks_up = node.op_type in ("Gather", "GatherBlockQuantized")
        if looks_up and len(node.input) > 1 and node.input[1] == "input_ids" and node.input[0] in sizes:
            return int(sizes[node.input[0]][0])
    return 1


def send(runner: Runner, requests: Sequence[Request], folder: Path, model_seconds: float) -> list[Answer | InputError]:
    """Have requests carried out in an existing, empty ``folder``, each within ``model_seconds``.

    Returns:
        for each request what it found, or what went wrong with it; one that fails does not disturb the others.

    Raises:
        InputError: the runner cannot be started.
    """
    # Links of fixed names: what the program sees, and with it every count, is the same wherever these lie.
    (folder / "runner").symlink_to(runner.program)
    if runner.warm_up is not None:
        (folder / _WARM_UP).symlink_to(runner.warm_up)
    lines = []
    for index, request in enumerate(requests):
        name = f"model-{index:05}.onnx"
        (folder / name).symlink_to(request.model.resolve())
        lines.append("\t".join([*request.fields, name]) + "\n")
    command = [*runner.command, "./runner", str(runner.library), _WARM_UP if runner.warm_up else "-"]
    core = -1 if runner.core is None else runner.core
    command += [f"{runner.jobs:02}", f"{model_seconds:09.3f}", f"{core:04}", str(int(runner.arena))]
    limit = _START_SECONDS + model_seconds * -(-len(requests) // runner.jobs)
    done = _run(runner, command, "".join(lines), folder, limit)
    endings = {int(line[0]): line[1] for text in done.stdout.splitlines() if (line := _ending(text))}
    if not requests and done.returncode != 0:
        raise InputError(f"{runner.what} {done.ending}.", GO_ON)
    return [
        _answer(runner, request, folder / f"reply-{index:05}", endings.get(index), done, model_seconds)
        for index, request in enumerate(requests)
    ]


@dataclass(frozen=True)
class _Done:
    returncode: int | None  # None where the time limit ended it
    stdout: str
    stderr: str
    limit: float

    @property
    def ending(self) -> str:
        """How it ended, as the rest of a sentence."""
        if self.returncode is None:
            return f"did not finish within {self.limit:.0f} seconds"
        if self.returncode < 0:
            return f"crashed ({_signal_name(-self.returncode)})"
        return f"stopped with status {self.returncode}{self.last_words}"

    @property
    def last_words(self) -> str:
        lines = [line for line in self.stderr.splitlines() if line.strip()]
        return f" ({lines[-1].strip()})" if lines else ""


def _run(runner: Runner, command: Sequence[str], requests: str, folder: Path, limit: float) -> _Done:
    # Nothing of our environment: it lies on the program's stack, and its size would move the counts.
    environment = {"ORT_DISABLE_TELEMETRY": "1"}
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(
            command,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            cwd=folder,
            env=environment,
            text=True,
            errors="replace",
            start_new_session=True,  # a group, so that its forks can be ended with it
        )
    except OSError as error:
        raise InputError(f"Cannot start {_lower(runner.what)}: {error.strerror or error}.", GO_ON) from None
    try:
        stdout, stderr = process.communicate(requests, timeout=limit)
    except subprocess.TimeoutExpired:
        _kill(process)
        stdout, stderr = process.communicate()
        return _Done(None, stdout, stderr, limit)
    except BaseException:  # we are being interrupted
        _kill(process)
        process.wait()
        raise
    return _Done(process.returncode, stdout, stderr, limit)


def _kill(process: subprocess.Popen[str]) -> None:
    """End a runner and its forks, whichever of them are left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _ending(line: str) -> tuple[str, tuple[str, int]] | None:
    match = re.fullmatch(r"(\d+) (exit|signal|timeout) (\d+)", line)
    return (match[1], (match[2], int(match[3]))) if match else None


def _answer(
    runner: Runner, request: Request, reply: Path, ending: tuple[str, int] | None, done: _Done, seconds: float
) -> Answer | InputError:
    path = request.model
    if ending is None:  # the parent process ended before this one did
        return InputError(f"{runner.what} {done.ending} before it was through with {path}.", GO_ON)
    how, value = ending
    if how == "timeout":
        return InputError(f"{runner.what} did not finish {path} within {seconds:g} seconds.", GO_ON)
    if how == "signal":
        return InputError(f"{runner.what} crashed ({_signal_name(value)}) while it ran {path}.", GO_ON)
    if value:
        reason = f"stopped with status {value}{done.last_words} while it ran {path}"
        full = f"; {_DISK_FULL}" if re.search("cannot (write|create)", done.stderr) else ""
        return InputError(f"{runner.what} {reason}{full}.", GO_ON)
    try:
        found: dict[str, Any] = json.loads(reply.read_bytes())
        if "error" in found:
            return InputError(f"{path} cannot be run {runner.where}: {str(found['error']).rstrip('.')}.")
        return Answer(found["peak_heap"], found["nanoseconds"], found["outputs"])
    except (OSError, ValueError, KeyError) as error:
        return InputError(f"The answer of {_lower(runner.what)} about {path} is not readable ({error}).", GO_ON)


def _lower(what: str) -> str:
    return what[0].lower() + what[1:]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
