"""The daemon's side of the driver process: links to actors, slots, and whether it is connected."""

import asyncio
import logging
import pickle
from collections.abc import Callable
from functools import partial
from itertools import count

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
    SlotLost,
    SlotReady,
    StartActor,
)
from speakeasyd.domain.fault import Phase
from speakeasyd.domain.protocol import Fault, Hello, Loaded, Report, Request, WorkerSpec
from speakeasyd.loop import MainLoop
from speakeasyd.workers.link import KILLED, OnExit, OnReports, ProcessExit
from speakeasyd.workers.process import WorkerProcess
from speakeasyd.workers.spawn import spawn_worker

log = logging.getLogger(__name__)

DRIVER = "speakeasyd.cluster.driver:serve_cluster"
NAME = "cluster"  # of the driver process and its log
STOP_S = 10.0  # seconds for the driver to disconnect

OnNotice = Callable[[ClusterSeen | SlotReady | SlotLost | ClusterLost], None]


class ClusterClient:
    """One driver process, from its start to its end. It is not started again."""

    def __init__(self, spec: DriverSpec, *, main_loop: MainLoop, on_notice: OnNotice) -> None:
        """`on_notice`: called on the loop. `ClusterLost` is the last notice, in every case."""
        self._on_notice = on_notice
        self._links: dict[RunId, ActorLink] = {}
        self._probes: dict[int, asyncio.Future[str]] = {}
        self._models: dict[str, str] = {}  # hashes, by the names of models
        self._numbers = count(1)
        self._is_connected = False
        self._lost: ClusterLost | None = None  # what the driver has told last
        self._ended = asyncio.Event()
        self._process: WorkerProcess[Command, Notice] = WorkerProcess(
            partial(spawn_worker, NAME, spec, DRIVER),
            name=NAME,
            main_loop=main_loop,
            on_reports=self._on_notices,
            on_exit=self._on_exit,
        )

    def start(self) -> None:
        """Start the driver, which connects. Raises OSError."""
        self._process.start()

    async def stop(self) -> None:
        """Disconnect; all actors end."""
        if not self._is_connected:  # it may be waiting for the head
            self.kill()
        self.send(Disconnect())
        try:
            await asyncio.wait_for(self._ended.wait(), STOP_S)
        except TimeoutError:
            self.kill()
            await self._ended.wait()

    def kill(self) -> None:
        self._process.kill()

    def send(self, command: Command) -> None:
        self._process.send_request(command)

    def connect(
        self,
        slot: SlotId | None,
        name: str,
        spec: WorkerSpec,
        target: str,
        *,
        on_reports: OnReports,
        on_exit: OnExit,
    ) -> "ActorLink":
        """Return the link to an actor, which is not started yet."""
        run = RunId(next(self._numbers))
        link = ActorLink(
            self, StartActor(run, slot, name, spec, target), on_reports=on_reports, on_exit=on_exit
        )
        self._links[run] = link
        return link

    async def probe(self, slot: SlotId, spec: WorkerSpec) -> str:
        """Probe the device of a slot. Returns its error; empty if it works."""
        number = next(self._numbers)
        self._probes[number] = asyncio.get_running_loop().create_future()
        self.send(ProbeSlot(number, slot, spec))
        try:
            return await self._probes[number]
        finally:
            del self._probes[number]

    def check_model(self, report: Report) -> Report:
        """Return a fault if the model that was loaded is not the daemon's, else the report.

        Without a model on the daemon's machine, that of the first worker counts.
        """
        if not isinstance(report, Loaded) or not report.sha256:
            return report
        known = self._models.setdefault(report.model, report.sha256)
        if known == report.sha256:
            return report
        error = (
            f"NodeRefused: the model {report.model} of this machine has the hash "
            f"{report.sha256[:12]}, that of the others has {known[:12]}"
        )
        return Fault(Phase.LOAD, error, ())

    async def _on_notices(self, notices: list[Notice]) -> None:
        for notice in notices:
            match notice:
                case ActorReports(run, reports, rss):
                    if link := self._links.get(run):
                        await link.deliver(reports, rss)
                case ActorEnded(run, process_exit):
                    if link := self._links.pop(run, None):
                        await link.on_exit(process_exit)
                case ProbeResult(number, error):
                    if (probe := self._probes.get(number)) and not probe.done():
                        probe.set_result(error)
                case ModelKnown(model, sha256):
                    self._models[model] = sha256
                case ClusterLost():
                    self._lost = notice
                case ClusterSeen() | SlotReady() | SlotLost():
                    self._is_connected = True
                    self._on_notice(notice)

    async def _on_exit(self, process_exit: ProcessExit) -> None:
        lost = self._lost or ClusterLost(_explain_exit(process_exit))
        for probe in self._probes.values():
            if not probe.done():
                probe.set_result(lost.reason)
        self._ended.set()
        self._on_notice(lost)
        for link in list(self._links.values()):
            await link.on_exit(ProcessExit(KILLED, lost.reason))


class ActorLink:
    """The link of a supervisor to the worker in an actor."""

    def __init__(
        self, client: ClusterClient, start: StartActor, *, on_reports: OnReports, on_exit: OnExit
    ) -> None:
        self._client, self._start = client, start
        self._on_reports, self.on_exit = on_reports, on_exit
        self._rss = 0
        self.pid: int | None = None

    def start(self) -> None:
        self._client.send(self._start)

    def send_request(self, request: Request) -> None:
        self._client.send(SendRequest(self._start.run, request))

    def kill(self) -> None:
        self._client.send(KillActor(self._start.run))

    def read_resident_bytes(self) -> int:
        return self._rss

    async def deliver(self, pickled: bytes, rss: int) -> None:
        self._rss = rss or self._rss
        if not pickled:
            return
        reports: list[Report] = pickle.loads(pickled)  # noqa: S301 - of our own actors
        for report in reports:
            if isinstance(report, Hello):
                self.pid = report.pid
        await self._on_reports([self._client.check_model(report) for report in reports])


def _explain_exit(process_exit: ProcessExit) -> str:
    """Ray's library ends its process when the head or the Ray of this machine is lost."""
    last = process_exit.last_words.splitlines()[-1:] or ["its log says no more"]
    return f"the connection to the Ray cluster was lost: {last[0][:300]}"
