"""Kills actors, nodes, the head and the daemon while it works on a Ray cluster."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

import psutil

from tests.ray_cluster import ENVIRONMENT, RayCluster, is_ray_installed
from tests.torture.daemon_under_test import DaemonUnderTest
from tests.torture.kills import SLOW_CHUNKS, drop_files, wait_for_committed_chunk
from tests.torture.scenario import Run, Scenario

FULL_ROUNDS = 20

SETTINGS = {"workers": {"pool": "ray", "device": "cpu"}}


@contextmanager
def create_daemon(run: Run, address: str) -> Iterator[DaemonUnderTest]:
    """Create a daemon on the cluster. Its actors take a CPU each, and share its state folder."""
    os.environ |= ENVIRONMENT
    cluster = {"address": address, "resources": {"CPU": 1}}
    with run.create_daemon(settings=SETTINGS | {"cluster": cluster}) as daemon:
        daemon.write_fault_script(SLOW_CHUNKS)
        os.environ["SPEAKEASYD_CLUSTER__STATE"] = str(daemon.state)
        yield daemon


def find_workers() -> list[psutil.Process]:
    """Return the workers on the cluster, whose nodes are children of this process.

    The parent of each is its actor.
    """
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if process.cmdline()[:1] == ["ray::WorkerActor.receive"]:
                found += process.children()
    return found


def work_through_faults(run: Run, daemon: DaemonUnderTest, inject: Callable[[int], object]) -> None:
    """Drop files and call `inject` with the number of the round during work, until all is done."""
    daemon.start()
    for number in run.count_rounds(FULL_ROUNDS):
        drop_files(daemon, run.rng)
        wait_for_committed_chunk(daemon)
        inject(number)
    daemon.wait_for_all_jobs()
    daemon.stop()


def kill_actors(run: Run) -> None:
    with closing(RayCluster()) as cluster, create_daemon(run, cluster.address) as daemon:
        cluster.add_node("first", cpus=2)

        def kill_actor_or_worker(_round: int) -> None:
            worker = run.rng.choice(daemon.wait_until(find_workers, "a worker"))
            with suppress(psutil.NoSuchProcess):
                (worker.parent() if run.rng.random() < 0.5 else worker).send_signal(signal.SIGKILL)

        work_through_faults(run, daemon, kill_actor_or_worker)


def kill_nodes(run: Run) -> None:
    with closing(RayCluster()) as cluster, create_daemon(run, cluster.address) as daemon:
        cluster.add_node("0", cpus=1)

        def replace_node(number: int) -> None:
            cluster.add_node(str(number + 1), cpus=1)
            cluster.kill_node(str(number))

        work_through_faults(run, daemon, replace_node)


def kill_daemon(run: Run) -> None:
    with closing(RayCluster()) as cluster, create_daemon(run, cluster.address) as daemon:
        cluster.add_node("first", cpus=2)

        def restart_daemon(_round: int) -> None:
            daemon.kill()
            run.check_daemon(daemon, ended=False)
            daemon.start()

        work_through_faults(run, daemon, restart_daemon)


def kill_head(run: Run) -> None:
    cluster = RayCluster()
    port = int(cluster.address.rpartition(":")[2])

    def replace_cluster(_round: int) -> None:
        nonlocal cluster
        cluster.kill()
        cluster = RayCluster(port)
        cluster.add_node("first", cpus=2)

    try:
        with create_daemon(run, cluster.address) as daemon:
            cluster.add_node("first", cpus=2)
            work_through_faults(run, daemon, replace_cluster)
    finally:
        cluster.close()


SCENARIOS = tuple(
    Scenario(name, fault, execute, is_possible=is_ray_installed)
    for name, fault, execute in (
        ("cluster-kill-actor", "`kill -9` of an actor or its worker, Ray cluster", kill_actors),
        ("cluster-kill-node", "`kill -9` of a node, Ray cluster", kill_nodes),
        ("cluster-kill-daemon", "`kill -9` of the daemon, Ray cluster", kill_daemon),
        ("cluster-kill-head", "`kill -9` of the head and its nodes, Ray cluster", kill_head),
    )
)
