"""Looks at a Ray cluster: `python -m speakeasyd.cluster.survey` prints its findings as JSON.

It runs in a disposable process, as Ray's client library may end its process. Arguments: the
address, the resources of an actor as JSON, and what `DriverSpec.on_gpus` says, as JSON.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from speakeasyd.cluster.access import find_exposure, is_authenticated
from speakeasyd.cluster.actor import NodeVersions, read_versions
from speakeasyd.cluster.connection import connect, describe_error
from speakeasyd.cluster.messages import Node
from speakeasyd.cluster.slots import choose_resources, count_room, list_nodes

JOIN_S = 60.0  # seconds for every node to answer


def survey_cluster(
    address: str, resources: Mapping[str, float], on_gpus: bool | None
) -> dict[str, Any]:
    """Return the nodes, what an actor takes, how many have room, and the first error.

    `error` is empty if the cluster can be used. Never raises.
    """
    try:
        connect(address)
        nodes = [node for node in list_nodes() if node.alive]
        wanted = resources or choose_resources(nodes, on_gpus=on_gpus)
        exposure = find_exposure(nodes, insecure=False)
        return {
            "nodes": _describe_nodes(nodes),
            "resources": dict(wanted),
            "room": count_room(nodes, wanted),
            "is_authenticated": is_authenticated(),
            "exposure": exposure.reason if exposure else "",
            "hint": exposure.hint if exposure else "",
            "error": "",
        }
    except Exception as error:  # noqa: BLE001 - Ray raises anything, and every failure is a finding
        return {"error": describe_error(error)}


def _describe_nodes(nodes: Sequence[Node]) -> list[dict[str, object]]:
    """Ask each node for its versions, all at the same time."""
    own = read_versions()
    remote = ray.remote(read_versions)
    asked = {
        remote.options(
            num_cpus=0,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False),
        ).remote(): node
        for node in nodes
    }
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=JOIN_S)
    return [
        {
            "host": node.host,
            "address": node.address,
            "cpus": node.resources.get("CPU", 0.0),
            "gpus": node.resources.get("GPU", 0.0),
            "problem": _find_problem(own, reference, node)
            if reference in answered
            else "no answer",
        }
        for reference, node in asked.items()
    ]


def _find_problem(own: NodeVersions, reference: Any, node: Node) -> str:
    try:
        return own.find_difference(ray.get(reference), node.host)
    except Exception as error:  # noqa: BLE001 - such as a package that is missing there
        return describe_error(error)


def main() -> None:
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what Ray prints
    address, resources, on_gpus = sys.argv[1:]
    json.dump(survey_cluster(address, json.loads(resources), json.loads(on_gpus)), answer)
    answer.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
