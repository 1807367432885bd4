"""A Ray driver without Ray: its actors are numbers, and their chunks come at a fixed rate.

It speaks the messages of `speakeasyd/cluster/driver.py`, so the daemon is the real one. The
environment variables say how many actors there are, and how many chunks each finishes in a second.
"""

import os
import pickle
import threading
import time
from collections import defaultdict, deque
from multiprocessing.connection import Connection

from speakeasyd.cluster.messages import (
    ActorEnded,
    ActorReports,
    ClusterSeen,
    Command,
    Disconnect,
    DriverSpec,
    KillActor,
    Node,
    RunId,
    SendRequest,
    SlotId,
    SlotReady,
    StartActor,
)
from speakeasyd.domain.protocol import (
    ChunkDone,
    ChunkStarted,
    Drain,
    Drained,
    Drop,
    Hello,
    LanguageFound,
    Loaded,
    Opened,
    Report,
    Task,
    TaskDone,
)
from speakeasyd.domain.transcript import Chunk, Segment
from speakeasyd.workers.link import ProcessExit

ACTORS, RATE, CHUNKS = "SIMULATED_ACTORS", "SIMULATED_RATE", "SIMULATED_CHUNKS"
TICK_S = 0.1  # seconds: how long a real actor collects reports with 100 actors
CHUNK_S = 20.0  # seconds of audio
WORDS = "the words of a chunk that a person said in about twenty seconds of a recording " * 3


def serve_simulation(conn: Connection, _spec: DriverSpec) -> int:
    return Simulation(conn).run()


class Simulation:
    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._actors = int(os.environ[ACTORS])
        self._rate = float(os.environ[RATE])
        self._chunks = int(os.environ[CHUNKS])
        self._lock = threading.Lock()
        self._tasks: dict[RunId, deque[Task]] = defaultdict(deque)
        self._reports: dict[RunId, list[Report]] = defaultdict(list)
        self._next: dict[RunId, int] = {}
        self._due: dict[RunId, float] = defaultdict(float)
        self._stopped = threading.Event()

    def run(self) -> int:
        node = Node("simulated", "simulated", "127.0.0.1", True, {"CPU": float(self._actors)})
        resources = {"CPU": 1.0}
        self._conn.send(ClusterSeen((node,), resources, self._actors, self._actors))
        for number in range(self._actors):
            self._conn.send(SlotReady(SlotId(number), node, resources))
        threading.Thread(target=self._read_commands, daemon=True).start()
        seen_at = told_at = time.monotonic()
        while not self._stopped.wait(TICK_S):
            now = time.monotonic()
            with self._lock:
                for run in list(self._tasks):
                    self._compute(run, now - seen_at)
                batches, self._reports = self._reports, defaultdict(list)
            seen_at = now
            for run, reports in batches.items():
                self._conn.send(ActorReports(run, pickle.dumps(reports), 0))
            if now - told_at > 1.0:
                told_at = now
                self._conn.send(ClusterSeen((node,), resources, self._actors, self._actors))
        return 0

    def _compute(self, run: RunId, elapsed_s: float) -> None:
        """Finish the chunks that are due."""
        tasks, reports = self._tasks[run], self._reports[run]
        self._due[run] = min(self._due[run] + elapsed_s * self._rate, 10 * self._rate)
        while tasks and self._due[run] >= 1:
            task = tasks[0]
            chunks = self._count_chunks(task)
            index = self._next.get(run, 0)
            while index in task.skip:
                index += 1
            if index == 0 or run not in self._next:
                reports.append(Opened(task.job_id, task.token, chunks * CHUNK_S))
                reports.append(LanguageFound(task.job_id, task.token, "en", 1.0))
            if index < chunks:
                start, end = index * CHUNK_S, (index + 1) * CHUNK_S
                segment = Segment(start, end, f" {WORDS}", confidence=0.9)
                reports.append(ChunkStarted(task.job_id, task.token, index, start, end))
                reports.append(
                    ChunkDone(task.job_id, task.token, Chunk(index, start, end, (segment,)))
                )
                self._due[run] -= 1
                self._next[run] = index + 1
            else:
                reports.append(TaskDone(task.job_id, task.token, chunks * CHUNK_S))
                tasks.popleft()
                self._next.pop(run, None)

    def _count_chunks(self, task: Task) -> int:
        """Return how long a file is: half to one and a half of the usual, so that not all end at once."""
        return int(self._chunks * (0.5 + task.job_id * 0.618034 % 1))

    def _read_commands(self) -> None:
        while not self._stopped.is_set():
            command: Command = self._conn.recv()
            with self._lock:
                self._obey(command)

    def _obey(self, command: Command) -> None:
        match command:
            case StartActor(run=run):
                self._reports[run] += [
                    Hello(os.getpid()),
                    Loaded("auto", "simulated", "cpu", "int8", 0.0),
                ]
            case SendRequest(run=run, request=Task() as task):
                self._tasks[run].append(task)
            case SendRequest(run=run, request=Drop(job_id)):
                self._tasks[run] = deque(task for task in self._tasks[run] if task.job_id != job_id)
                self._next.pop(run, None)
            case SendRequest(run=run, request=Drain()):
                self._tasks.pop(run, None)
                self._conn.send(ActorReports(run, pickle.dumps([Drained()]), 0))
                self._conn.send(ActorEnded(run, ProcessExit(0)))
            case KillActor(run=run):
                self._tasks.pop(run, None)
                self._conn.send(ActorEnded(run, ProcessExit(-9)))
            case Disconnect():
                self._stopped.set()
            case _:
                pass
