"""The slots of the cluster: one placement group of Ray for each actor that is wanted.

Ray finds the nodes, keeps the resources reserved between two actors, and places a group again when
its node is lost.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import ray
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

from speakeasyd.cluster.messages import DriverSpec, Node, Notice, SlotId, SlotLost, SlotReady

ANSWER_S = 20.0  # seconds for the head to answer
_EPSILON = 1e-6


@dataclass(eq=False, slots=True)
class _Group:
    group: PlacementGroup
    slot: SlotId | None = None  # None: it waits for room
    node: Node | None = None


class Slots:
    """The placement groups of this driver. Call `look_at_nodes` and `adapt` again and again."""

    def __init__(self, spec: DriverSpec, tell: Callable[[Notice], None]) -> None:
        self._spec, self._tell = spec, tell
        self._groups: list[_Group] = []
        self._numbers = count(1)
        self._adapting = asyncio.Lock()
        self.nodes: tuple[Node, ...] = ()
        self.resources: Mapping[str, float] = {}
        self.wanted = 0

    @property
    def ready(self) -> int:
        return sum(group.slot is not None for group in self._groups)

    def find_group(self, slot: SlotId) -> PlacementGroup | None:
        return next((group.group for group in self._groups if group.slot == slot), None)

    def find_node(self, slot: SlotId) -> Node | None:
        return next((group.node for group in self._groups if group.slot == slot), None)

    async def look_at_nodes(self) -> tuple[Node, ...]:
        """Update `nodes`. Raises as `adapt`."""
        try:
            async with asyncio.timeout(ANSWER_S):
                self.nodes = await asyncio.to_thread(list_nodes)
        except TimeoutError:
            raise TimeoutError(f"no answer within {ANSWER_S:.0f} s") from None
        return self.nodes

    async def adapt(self) -> None:
        """Adapt the groups to the nodes that were seen last. Tells of new and of lost slots.

        Raises TimeoutError if the head does not answer, and the exceptions of Ray.
        """
        async with self._adapting, asyncio.timeout(ANSWER_S):
            self.resources = self._spec.resources or choose_resources(
                self.nodes, on_gpus=self._spec.on_gpus
            )
            table = await asyncio.to_thread(placement_group_table)
            self._find_changes(table)
            self.wanted = self._spec.actors or count_room(self.nodes, self.resources)
            await asyncio.to_thread(self._adapt_number)

    def _find_changes(self, table: Mapping[str, Any]) -> None:
        by_id = {node.node_id: node for node in self.nodes if node.alive}
        for group in self._groups:
            found = table.get(group.group.id.hex(), {})
            is_placed = found.get("state") == "CREATED"
            node = by_id.get(found["bundles_to_node_id"][0]) if is_placed else None
            if group.node and node != group.node and group.slot is not None:
                self._tell(SlotLost(group.slot, f"the machine {group.node.host} left the cluster"))
                group.slot = group.node = None
            if node and group.slot is None:
                group.slot, group.node = SlotId(next(self._numbers)), node
                self._tell(SlotReady(group.slot, node, self.resources))

    def _adapt_number(self) -> None:
        """Create groups, or remove some, first those that wait for room. Blocks."""
        while len(self._groups) < self.wanted:
            self._groups.append(_Group(placement_group([dict(self.resources)])))
        for group in sorted(self._groups, key=lambda group: group.slot is not None):
            if len(self._groups) <= self.wanted:
                break
            self._groups.remove(group)
            remove_placement_group(group.group)
            if group.slot is not None:
                self._tell(SlotLost(group.slot, "there is no room for this actor any more"))


def list_nodes() -> tuple[Node, ...]:
    """Return the nodes that the head knows, lost ones too. Blocks."""
    return tuple(
        Node(
            node_id=found["NodeID"],
            host=found["NodeManagerHostname"].partition(".")[0],
            address=found["NodeManagerAddress"],
            alive=found["Alive"],
            resources={
                name: amount
                for name, amount in found["Resources"].items()
                if not name.startswith("node:")
            },
        )
        for found in ray.nodes()
    )


def choose_resources(nodes: Sequence[Node], *, on_gpus: bool | None) -> Mapping[str, float]:
    """Return what an actor takes: a GPU, or the CPUs of the smallest node that has any.

    `on_gpus`: None means GPUs if there are any.
    """
    alive = [node.resources for node in nodes if node.alive]
    if on_gpus or (on_gpus is None and any(resources.get("GPU") for resources in alive)):
        return {"GPU": 1.0}
    return {"CPU": min((cpus for found in alive if (cpus := found.get("CPU", 0.0))), default=1.0)}


def count_room(nodes: Sequence[Node], resources: Mapping[str, float]) -> int:
    """Return how many actors the nodes have room for."""
    return sum(
        int(
            min(node.resources.get(name, 0.0) / amount for name, amount in resources.items())
            + _EPSILON
        )
        for node in nodes
        if node.alive
    )
