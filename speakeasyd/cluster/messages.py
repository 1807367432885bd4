"""The messages between the daemon and its Ray driver process. All are pickled through one pipe."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NewType

from speakeasyd.domain.devices import CPU
from speakeasyd.domain.protocol import Request, WorkerSpec
from speakeasyd.workers.link import ProcessExit

SlotId = NewType("SlotId", int)
"""A place for one actor: resources that Ray has reserved on a node. Never used again."""
RunId = NewType("RunId", int)
"""One actor, from its start to its end."""


@dataclass(frozen=True, slots=True)
class DriverSpec:
    """The settings of the driver process."""

    address: str  # host:port, or "auto"
    actors: int  # slots to reserve; 0: as many as the nodes have room for
    resources: Mapping[str, float]  # of each slot; empty: see `choose_resources`
    on_gpus: bool | None  # None: on GPUs if there are any
    insecure: bool  # several machines without authentication are accepted
    owner: str  # of the actors: the same after a restart of the daemon
    folders: Mapping[str, str]  # of the sources on the daemon's machine
    shared: frozenset[str]  # the folders that the nodes can read themselves
    state_dir: str  # on the daemon's machine
    model: str = ""  # the model to compare, as `options.model` names it; empty: none
    device: str = CPU  # of the driver process itself


# --- daemon to driver


@dataclass(frozen=True, slots=True)
class StartActor:
    """Start an actor with a worker in it, which runs `target` ("module:function")."""

    run: RunId
    slot: SlotId | None  # None: anywhere, on a CPU
    name: str
    spec: WorkerSpec
    target: str


@dataclass(frozen=True, slots=True)
class SendRequest:
    run: RunId
    request: Request


@dataclass(frozen=True, slots=True)
class KillActor:
    run: RunId


@dataclass(frozen=True, slots=True)
class ProbeSlot:
    """Probe the device of a slot, and whether its node can take part."""

    number: int  # of the answer
    slot: SlotId
    spec: WorkerSpec


@dataclass(frozen=True, slots=True)
class Disconnect:
    """End all actors and leave the cluster."""


Command = StartActor | SendRequest | KillActor | ProbeSlot | Disconnect

# --- driver to daemon


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the cluster."""

    node_id: str  # hex
    host: str
    address: str
    alive: bool
    resources: Mapping[str, float] = field(default_factory=dict)  # in total


@dataclass(frozen=True, slots=True)
class ClusterSeen:
    """The driver is connected. Sent every few seconds, as a sign of life."""

    nodes: tuple[Node, ...]
    resources: Mapping[str, float]  # of each slot
    wanted: int  # slots
    ready: int  # slots


@dataclass(frozen=True, slots=True)
class ModelKnown:
    """The model that the daemon's machine has. Sent before the first slot, if it has one."""

    model: str  # as `Loaded.model`
    sha256: str


@dataclass(frozen=True, slots=True)
class SlotReady:
    slot: SlotId
    node: Node
    resources: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class SlotLost:
    """The node of a slot has left, or the slot is not wanted any more."""

    slot: SlotId
    reason: str


@dataclass(frozen=True, slots=True)
class ActorReports:
    run: RunId
    reports: bytes  # a pickled list of `Report`
    rss: int  # bytes, of the worker


@dataclass(frozen=True, slots=True)
class ActorEnded:
    """The last message of a run."""

    run: RunId
    exit: ProcessExit


@dataclass(frozen=True, slots=True)
class ProbeResult:
    number: int
    error: str  # empty if the device works


@dataclass(frozen=True, slots=True)
class ClusterLost:
    """The cluster cannot be used. The last message: the driver ends."""

    reason: str
    hint: str = ""
    needs_person: bool = False  # waiting does not help


Notice = (
    ClusterSeen
    | ModelKnown
    | SlotReady
    | SlotLost
    | ActorReports
    | ActorEnded
    | ProbeResult
    | ClusterLost
)
