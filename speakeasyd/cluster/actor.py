"""The actor: on a node of the cluster, it owns one worker process and relays its messages.

The worker is the same process as on the daemon's machine, with the same pipe. Ray is not imported
here: the driver makes an actor of the class.
"""

import asyncio
import os
import pickle
import platform
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import psutil

from speakeasyd import __version__
from speakeasyd.domain.devices import CPU, FIRST_GPU, is_gpu
from speakeasyd.domain.job import JobId, Token
from speakeasyd.domain.protocol import (
    Drop,
    Report,
    Request,
    SourceRef,
    TaskDone,
    TaskFailed,
    WorkerSpec,
)
from speakeasyd.loop import MainLoop
from speakeasyd.setting_sources import default_state_folder
from speakeasyd.thread_group import ThreadGroup
from speakeasyd.workers.devices import check_device
from speakeasyd.workers.link import ProcessExit
from speakeasyd.workers.process import WorkerProcess
from speakeasyd.workers.spawn import spawn_worker

POLL_S = 5.0  # seconds after which a poll returns without reports, as a sign of life
MEMORY_S = 5.0  # seconds between measurements of the worker's memory
SOURCES_BYTES = 2 << 30  # of received sources on a node's disk for one actor; one may be larger
_FOLDER = "received"  # below the state folder

SourceKey = tuple[JobId, Token]
"""The task that a source was sent for."""


@dataclass(frozen=True, slots=True)
class NodeVersions:
    """What has to be equal on the daemon's machine and on each node."""

    speakeasyd: str
    python: str
    ray: str

    def find_difference(self, other: "NodeVersions", host: str) -> str:
        """Return what differs on the other machine, for people; empty if nothing does."""
        pairs = (
            ("speakeasyd", self.speakeasyd, other.speakeasyd),
            ("Python", self.python, other.python),
            ("Ray", self.ray, other.ray),
        )
        return "; ".join(
            f"{host} has {what} {theirs}, the daemon has {what} {ours}"
            for what, ours, theirs in pairs
            if ours != theirs
        )


def read_versions() -> NodeVersions:
    """Return the versions of this node. Ray can also run it without an actor."""
    python = ".".join(platform.python_version_tuple()[:2])
    return NodeVersions(__version__, python, version("ray"))


@dataclass(frozen=True, slots=True)
class Mail:
    """What an actor has for the daemon."""

    reports: bytes  # a pickled list of `Report`; empty if there are none
    rss: int  # bytes, of the worker
    exit: ProcessExit | None  # the worker has ended: nothing follows


class WorkerActor:
    """Runs on a node. All methods are called by the driver, several at a time."""

    async def read_versions(self) -> NodeVersions:
        return read_versions()

    async def check_device(self, spec: WorkerSpec) -> str:
        """Probe the device of this actor. Returns its error; empty if it works."""
        return await check_device(_find_device(spec), state_dir=_choose_state_folder(spec))

    async def start_worker(self, name: str, spec: WorkerSpec, target: str) -> None:
        """Start the worker. `spec.folders`: those that this machine can read; the others are "".

        Raises OSError.
        """
        # Ray sets it to the actor's CPUs, and each replica of the model would start as many threads
        os.environ["OMP_NUM_THREADS"] = "1"
        state = Path(_choose_state_folder(spec))
        # Several machines may have the same state folder, on a server
        self._sources = ReceivedSources(state / _FOLDER / platform.node() / f"{os.getpid()}")
        folders = {
            folder: path or str(self._sources.root / folder)
            for folder, path in spec.folders.items()
        }
        spec = replace(spec, device=_find_device(spec), folders=folders, state_dir=str(state))
        self._reports: list[Report] = []
        self._exit: ProcessExit | None = None
        self._changed = asyncio.Event()
        self._rss, self._measured_at = 0, float("-inf")
        self._worker: WorkerProcess[Request, Report] = WorkerProcess(
            partial(spawn_worker, name, spec, target),
            name=name,
            main_loop=MainLoop(asyncio.get_running_loop()),
            on_reports=self._on_reports,
            on_exit=self._on_exit,
        )
        self._worker.start()

    async def send_request(self, request: Request) -> None:
        if isinstance(request, Drop):
            await self._sources.remove(request.job_id)
        self._worker.send_request(request)

    async def receive(self, gather_s: float) -> Mail:
        """Wait for reports and collect them for `gather_s` seconds."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), POLL_S)
            if not self._exit:
                await asyncio.sleep(gather_s)
        reports, self._reports = self._reports, []
        self._changed.clear()
        mail = Mail(pickle.dumps(reports) if reports else b"", self._measure_memory(), self._exit)
        for report in reports:
            if isinstance(report, TaskDone | TaskFailed):
                await self._sources.remove(report.job_id, report.token)
        if self._exit:
            await self._sources.close()
        return mail

    async def reserve_source(self, key: SourceKey, source: SourceRef, size: int) -> None:
        """Wait until there is room for a source on this machine. Raises OSError."""
        await self._sources.reserve(key, source, size)

    async def write_piece(self, key: SourceKey, offset: int, piece: bytes) -> None:
        """Write a part of a source. Raises OSError."""
        await self._sources.write_piece(key, offset, piece)

    async def _on_reports(self, reports: list[Report]) -> None:
        self._reports += reports
        self._changed.set()

    async def _on_exit(self, process_exit: ProcessExit) -> None:
        self._exit = process_exit
        self._changed.set()

    def _measure_memory(self) -> int:
        if time.monotonic() - self._measured_at > MEMORY_S:
            self._measured_at = time.monotonic()
            self._rss = self._worker.read_resident_bytes()
        return self._rss


class ReceivedSources:
    """The sources that were sent to this machine, until their tasks end. One folder for a task."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._threads = ThreadGroup("sources", size=2)
        self._awaited: set[SourceKey] = set()  # those for which there is no room yet
        self._held: dict[SourceKey, tuple[Path, int]] = {}  # the file, and its bytes
        self._room = asyncio.Condition()
        _remove_abandoned(root.parent)
        root.mkdir(parents=True)

    async def reserve(self, key: SourceKey, source: SourceRef, size: int) -> None:
        self._awaited.add(key)
        async with self._room:
            await self._room.wait_for(lambda: key not in self._awaited or self._has_room(size))
            if key not in self._awaited:
                return
            self._awaited.remove(key)
            file = self.root / source.folder / os.fsdecode(source.path)
            self._held[key] = (file, size)
        await self._threads.run(_create_file, file)

    def _has_room(self, size: int) -> bool:
        held = sum(bytes_ for _, bytes_ in self._held.values())
        return not self._held or held + size <= SOURCES_BYTES

    async def write_piece(self, key: SourceKey, offset: int, piece: bytes) -> None:
        if held := self._held.get(key):
            await self._threads.run(_write_at, held[0], offset, piece)

    async def remove(self, job_id: JobId, token: Token | None = None) -> None:
        """Remove the sources of a job, or that of one of its claims."""

        def is_meant(key: SourceKey) -> bool:
            return key[0] == job_id and token in {None, key[1]}

        removed = [self._held.pop(key)[0] for key in list(self._held) if is_meant(key)]
        self._awaited = {key for key in self._awaited if not is_meant(key)}
        for file in removed:
            await self._threads.run(shutil.rmtree, file.parent, ignore_errors=True)
        async with self._room:
            self._room.notify_all()

    async def close(self) -> None:
        await self._threads.run(shutil.rmtree, self.root, ignore_errors=True)


def _find_device(spec: WorkerSpec) -> str:
    """Return the device as this process sees it: Ray makes the actor's GPU the only one."""
    return FIRST_GPU if is_gpu(spec.device) else CPU


def _choose_state_folder(spec: WorkerSpec) -> str:
    return spec.state_dir or str(default_state_folder())


def _create_file(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(mode=0o600)


def _write_at(file: Path, offset: int, piece: bytes) -> None:
    with file.open("r+b") as opened:
        opened.seek(offset)
        opened.write(piece)


def _remove_abandoned(parent: Path) -> None:
    """Remove the folders of this machine's actors that have ended without that."""
    with suppress(OSError):
        for folder in parent.iterdir():
            if not psutil.pid_exists(int(folder.name)) or int(folder.name) == os.getpid():
                shutil.rmtree(folder, ignore_errors=True)
