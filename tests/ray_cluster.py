"""A Ray cluster of several nodes on this machine, in processes of its own.

`python -m tests.ray_cluster` serves it: a line of JSON in, one out. The tests do not import Ray.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from typing import Any

from tests.conftest import REPOSITORY

MISSING = "Ray is not installed: make test-cluster"
STORE_BYTES = 80 << 20  # of each node
ATTEMPTS = 5  # to start a head
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # then 127.0.0.1 stays 127.0.0.1
    "RAY_AUTH_MODE": "disabled",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "15",
}
"""Environment of every process of the cluster and of the daemon."""


def is_ray_installed() -> bool:
    return find_spec("ray") is not None


class RayCluster:
    """A head without room for actors, and nodes that can be added and killed."""

    def __init__(self, port: int = 0) -> None:
        """`port`: of the head; 0: any."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.ray_cluster", str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | ENVIRONMENT | {"PYTHONPATH": str(REPOSITORY)},
            cwd=REPOSITORY,
        )
        try:
            self.address: str = self._read_answer()["address"]
        except BaseException:
            self.close()
            raise

    def add_node(self, name: str, *, cpus: int = 0, gpus: int = 0) -> None:
        self._call("add", name=name, cpus=cpus, gpus=gpus)

    def kill_node(self, name: str) -> None:
        self._call("kill", name=name)

    def kill(self) -> None:
        """Kill the head with all its nodes."""
        with suppress(OSError):
            self._call("kill_all")
        self.close()

    def close(self) -> None:
        with suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait()
        self._process.stdout.close()  # type: ignore[union-attr]

    def _call(self, verb: str, **more: Any) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"verb": verb, **more}) + "\n")
        self._process.stdin.flush()
        self._read_answer()

    def _read_answer(self) -> dict[str, Any]:
        assert self._process.stdout
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def start_head(start: Callable[[], Any]) -> Any:
    """Start a head. On a very busy machine, Ray gives up after 30 s; then try again."""
    for _ in range(ATTEMPTS - 1):
        with suppress(Exception):
            return start()
    return start()


def serve(port: int) -> None:
    """Start a cluster and carry out commands until stdin is closed."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what Ray prints

    from ray.cluster_utils import Cluster

    common = {
        "node_ip_address": "127.0.0.1",
        "object_store_memory": STORE_BYTES,
        "include_dashboard": False,
    }
    head = common | {"num_cpus": 0} | ({"gcs_server_port": port} if port else {})
    cluster = start_head(partial(Cluster, initialize_head=True, head_node_args=head))
    nodes = {}
    answers.write(json.dumps({"address": cluster.address}) + "\n")
    for line in sys.stdin:
        command = json.loads(line)
        match command["verb"]:
            case "add":
                nodes[command["name"]] = cluster.add_node(
                    num_cpus=command["cpus"], num_gpus=command["gpus"], **common
                )
            case "kill":
                cluster.remove_node(nodes.pop(command["name"]), allow_graceful=False)
            case "kill_all":
                for node in (cluster.head_node, *nodes.values()):
                    node.kill_all_processes(check_alive=False, allow_graceful=False)
        answers.write("{}\n")
    with suppress(Exception):
        cluster.shutdown()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
