"""The driver process: connects to Ray, and carries the messages between the daemon and the actors.

Ray's client library ends its process when the head is lost for long, so it is not in the daemon.
"""

import asyncio
import os
import pickle
import signal
import threading
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from speakeasyd.cluster.access import find_exposure
from speakeasyd.cluster.actor import WorkerActor, read_versions
from speakeasyd.cluster.connection import connect, describe_error, explain_failure
from speakeasyd.cluster.messages import (
    ActorEnded,
    ActorReports,
    ClusterLost,
    ClusterSeen,
    Command,
    Disconnect,
    DriverSpec,
    KillActor,
    ModelKnown,
    Notice,
    ProbeResult,
    ProbeSlot,
    RunId,
    SendRequest,
    SlotId,
    StartActor,
)
from speakeasyd.cluster.slots import Slots
from speakeasyd.cluster.sources import SourceSender
from speakeasyd.domain.devices import CPU, FIRST_GPU
from speakeasyd.domain.job import JobId
from speakeasyd.domain.protocol import Drain, Drop, Request, Task, TaskFailed
from speakeasyd.errors import FileFault
from speakeasyd.probe import run_probe
from speakeasyd.workers.link import KILLED, ProcessExit

REFRESH_S = 1.0  # seconds between looks at the nodes
JOIN_S = 120.0  # seconds for an actor to start and to answer
HASH_S = 120.0  # seconds to hash the model of this machine
LEAVE_S = 5.0  # seconds for a clean disconnection
GATHER_S = 0.02  # seconds in which an actor collects reports, at least
GATHER_PER_ACTOR_S = 0.001  # more actors collect longer, so that the driver's calls do not grow
CALLS = 1000  # of an actor at the same time


def serve_cluster(conn: Connection, spec: DriverSpec) -> int:
    """Serve the daemon's commands until `Disconnect` or the loss of the cluster.

    Returns the exit status. The target of the driver process.
    """
    return asyncio.run(Driver(conn, spec).run())


class Driver:
    """The connection to the cluster, its slots and its actors. Runs on the loop."""

    def __init__(self, conn: Connection, spec: DriverSpec) -> None:
        self._conn, self._spec = conn, spec
        self._slots = Slots(spec, self.deliver)
        self._sources = SourceSender(spec.folders)
        self._runs: dict[RunId, ActorRun] = {}
        self._commands: asyncio.Queue[Command] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._delivering = threading.Lock()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._read_commands, args=(loop,), daemon=True).start()
        hashing = asyncio.create_task(_hash_own_model(self._spec))
        try:
            await asyncio.to_thread(connect, self._spec.address)
        except Exception as error:  # noqa: BLE001 - Ray raises anything; the daemon tries again
            self.deliver(explain_failure(error))
            return 0
        _ignore_term()
        await asyncio.to_thread(_end_earlier_actors, self._spec.owner)
        if known := await hashing:
            self.deliver(known)
        watching = asyncio.create_task(self._watch_cluster())
        serving = asyncio.create_task(self._serve_commands())
        await asyncio.wait({watching, serving}, return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            self.deliver(watching.result())
            return 0
        for run in list(self._runs.values()):
            run.kill()
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(ray.shutdown), LEAVE_S)
        return 0

    async def _watch_cluster(self) -> ClusterLost:
        slots = self._slots
        while True:
            try:
                nodes = await slots.look_at_nodes()
                if exposure := find_exposure(nodes, insecure=self._spec.insecure):
                    return exposure
                await slots.adapt()
            except Exception as error:  # noqa: BLE001 - Ray raises anything
                return explain_failure(error)
            self.deliver(ClusterSeen(slots.nodes, slots.resources, slots.wanted, slots.ready))
            await asyncio.sleep(REFRESH_S)

    async def _serve_commands(self) -> None:
        while True:
            match await self._commands.get():
                case StartActor() as start:
                    run = self._runs[start.run] = ActorRun(start, self)
                    self._in_background(run.serve())
                case SendRequest(run_id, request):
                    if found := self._runs.get(run_id):
                        found.requests.put_nowait(request)
                case KillActor(run_id):
                    if found := self._runs.get(run_id):
                        found.kill()
                case ProbeSlot() as probe:
                    self._in_background(self._probe_slot(probe))
                case Disconnect():
                    return

    def create_actor(self, slot: SlotId | None, name: str | None) -> Any:
        """Create an actor in a slot, or without one on any CPU. Raises RayError, ValueError."""
        options: dict[str, Any] = {"num_cpus": 1, "num_gpus": 0}
        if slot is not None:
            group = self._slots.find_group(slot)
            if group is None:
                raise ValueError("the slot is gone")
            resources = dict(self._slots.resources)
            options = {
                "num_cpus": resources.pop("CPU", 0.0),
                "num_gpus": resources.pop("GPU", 0.0),
                "resources": resources,
                "scheduling_strategy": PlacementGroupSchedulingStrategy(group, 0),
            }
        return (
            ray.remote(WorkerActor)
            .options(
                **options,
                name=name,
                max_restarts=0,  # the supervisor starts another
                max_task_retries=0,  # the ledger decides what is repeated
                max_concurrency=CALLS,
            )
            .remote()
        )

    async def join_node(self, actor: Any, slot: SlotId | None) -> str:
        """Wait for an actor. Returns why its node cannot take part; empty if it can."""
        node = self._slots.find_node(slot) if slot is not None else None
        host = node.host if node else "a machine of the cluster"
        versions = await asyncio.wait_for(actor.read_versions.remote(), JOIN_S)
        difference: str = read_versions().find_difference(versions, host)
        return f"NodeRefused: {difference}" if difference else ""

    async def _probe_slot(self, probe: ProbeSlot) -> None:
        actor = None
        try:
            actor = self.create_actor(probe.slot, None)
            error = await self.join_node(actor, probe.slot) or await actor.check_device.remote(
                probe.spec
            )
        except Exception as failure:  # noqa: BLE001 - every failure is a finding
            error = describe_error(failure)
        finally:
            if actor is not None:
                ray.kill(actor)
        self.deliver(ProbeResult(probe.number, error))

    @property
    def gather_s(self) -> float:
        return max(GATHER_S, GATHER_PER_ACTOR_S * len(self._runs))

    @property
    def owner(self) -> str:
        return self._spec.owner

    @property
    def shared(self) -> frozenset[str]:
        return self._spec.shared

    @property
    def sources(self) -> SourceSender:
        return self._sources

    async def refresh_slots(self) -> None:
        """Look whether the slot of an actor that ended is gone. Failures are for the next look."""
        with suppress(Exception):
            await self._slots.look_at_nodes()
            await self._slots.adapt()

    def end_run(self, run: RunId, process_exit: ProcessExit) -> None:
        self._runs.pop(run, None)
        self.deliver(ActorEnded(run, process_exit))

    def _in_background(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- the pipe

    def deliver(self, notice: Notice) -> None:
        """Send a notice to the daemon. Thread-safe. Ends the process if the daemon is gone."""
        try:
            with self._delivering:
                self._conn.send(notice)
        except OSError:
            os._exit(0)  # the daemon is gone; Ray ends the actors of this process

    def _read_commands(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            while True:
                loop.call_soon_threadsafe(self._commands.put_nowait, self._conn.recv())
        except (EOFError, OSError):
            os._exit(0)


class ActorRun:
    """One actor: its requests, in their order, and its reports."""

    def __init__(self, start: StartActor, driver: Driver) -> None:
        self._start, self._driver = start, driver
        self._actor: Any = None
        self._joined = False  # its worker was started
        self._refusal = ""  # why its node cannot do the work
        self._ended_by_us = False
        self.requests: asyncio.Queue[Request] = asyncio.Queue()
        self._sending: dict[JobId, asyncio.Task[None]] = {}

    def kill(self) -> None:
        self._ended_by_us = True
        if self._actor is not None:
            with suppress(RayError):
                ray.kill(self._actor)

    async def serve(self) -> None:
        """Start the actor and its worker, and carry messages until it ends."""
        start = self._start
        requesting = None
        try:
            name = f"{self._driver.owner}-{start.name}-{start.run}"
            self._actor = self._driver.create_actor(start.slot, name)
            self._refusal = await self._driver.join_node(self._actor, start.slot)
            if self._refusal:
                process_exit = ProcessExit(None, self._refusal)
            else:
                await self._actor.start_worker.remote(start.name, start.spec, start.target)
                self._joined = True
                requesting = asyncio.create_task(self._send_requests())
                process_exit = await self._receive_reports()
        except Exception as error:  # noqa: BLE001 - Ray raises anything
            if not self._ended_by_us:
                await self._driver.refresh_slots()
            process_exit = self._classify_end(error)
        finally:
            for task in (requesting, *self._sending.values()):
                if task:
                    task.cancel()
        self.kill()
        self._driver.end_run(start.run, process_exit)

    async def _receive_reports(self) -> ProcessExit:
        while True:
            mail = await self._actor.receive.remote(self._driver.gather_s)
            if mail.reports or not mail.exit:
                self._driver.deliver(ActorReports(self._start.run, mail.reports, mail.rss))
            if mail.exit:
                return mail.exit  # type: ignore[no-any-return]

    def _classify_end(self, error: Exception) -> ProcessExit:
        """Return how the worker ended with its actor."""
        if self._refusal:
            return ProcessExit(None, self._refusal)
        if self._ended_by_us:
            return ProcessExit(KILLED)
        if isinstance(error, OutOfMemoryError):
            return ProcessExit(KILLED, short_of_memory=True)
        if not self._joined:
            return ProcessExit(None, f"NodeRefused: {describe_error(error)}")
        return ProcessExit(KILLED, f"the actor ended: {describe_error(error)}")

    # --- requests

    async def _send_requests(self) -> None:
        while True:
            match await self.requests.get():
                case Task() as task:
                    sending = asyncio.create_task(self._send_task(task))
                    self._sending[task.job_id] = sending
                    sending.add_done_callback(partial(self._on_sent, task.job_id))
                case Drop(job_id) as drop:
                    self._cancel_sending(job_id)
                    await self._call(drop)
                case Drain() as drain:
                    for job_id in list(self._sending):
                        self._cancel_sending(job_id)
                    await self._call(drain)

    def _cancel_sending(self, job_id: JobId) -> None:
        if sending := self._sending.pop(job_id, None):
            sending.cancel()

    def _on_sent(self, job_id: JobId, done: "asyncio.Task[None]") -> None:
        if self._sending.get(job_id) is done:
            del self._sending[job_id]
        if done.cancelled() or not (error := done.exception()):
            return
        if not isinstance(error, RayActorError):  # such as a full disk of the node
            self._refusal = f"NodeRefused: a source cannot be sent: {describe_error(error)}"
            self.kill()

    async def _send_task(self, task: Task) -> None:
        """Send the source of a task, unless the node can read it, then the task."""
        if task.source.folder not in self._driver.shared:
            try:
                task = await self._driver.sources.send(self._actor, task)
            except FileFault as fault:
                self._report_fault(task, fault)
                return
        await self._call(task)

    def _report_fault(self, task: Task, fault: FileFault) -> None:
        failed = TaskFailed(task.job_id, task.token, fault.code, str(fault))
        self._driver.deliver(ActorReports(self._start.run, pickle.dumps([failed]), 0))

    async def _call(self, request: Request) -> None:
        await self._actor.send_request.remote(request)


def _ignore_term() -> None:
    """Ray handles SIGTERM by an exit; the daemon decides when this process ends."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _end_earlier_actors(owner: str) -> None:
    """End the actors of an earlier driver of the same daemon, if Ray has not ended them yet."""
    for name in ray.util.list_named_actors():
        if name.startswith(f"{owner}-"):
            with suppress(ValueError, RayError):  # it has ended meanwhile
                ray.kill(ray.get_actor(name))


async def _hash_own_model(spec: DriverSpec) -> ModelKnown | None:
    """Return the model of this machine; None if it has none."""
    if not spec.model:
        return None
    device = FIRST_GPU if spec.on_gpus else CPU
    probe = ("-m", "speakeasyd.engine.model_hash", spec.model, device, spec.state_dir)
    found = await run_probe(*probe, deadline_s=HASH_S)
    return None if found["error"] else ModelKnown(found["model"], found["sha256"])
