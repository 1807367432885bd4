"""Rules of the cluster that need no cluster."""

import pytest

from speakeasyd.cluster.actor import NodeVersions
from speakeasyd.cluster.messages import Node
from speakeasyd.config import ClusterSettings, InboxSettings, Settings
from speakeasyd.domain.fault import FaultKind, Remedy, classify_fault
from tests.ray_cluster import MISSING, is_ray_installed

needs_ray = pytest.mark.skipif(not is_ray_installed(), reason=MISSING)


def create_node(host: str, *, alive: bool = True, address: str = "10.0.0.7", **has: float) -> Node:
    return Node(host, host, address, alive, has)


def test_other_versions_are_named() -> None:
    ours = NodeVersions("0.2.0", "3.11", "2.60.0")
    assert ours.find_difference(ours, "gpu7") == ""
    theirs = NodeVersions("0.1.0", "3.11", "2.59.0")
    assert ours.find_difference(theirs, "gpu7") == (
        "gpu7 has speakeasyd 0.1.0, the daemon has speakeasyd 0.2.0; "
        "gpu7 has Ray 2.59.0, the daemon has Ray 2.60.0"
    )


def test_a_refused_node_needs_a_person() -> None:
    diagnosis = classify_fault(error="NodeRefused: gpu7 has Ray 2.59.0, the daemon has Ray 2.60.0")
    assert (diagnosis.kind, diagnosis.remedy) == (FaultKind.CONFIGURATION, Remedy.PERSON)


@pytest.mark.parametrize(
    "address", ["auto", "head:6379", "10.0.0.1:6379", "[fd00::1]:6379", "head.example.com:1"]
)
def test_addresses_of_a_head_are_accepted(address: str) -> None:
    assert ClusterSettings(address=address).address == address


@pytest.mark.parametrize("address", ["", "head", "ray://head:10001", "local", "head:"])
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(ValueError, match="address"):
        ClusterSettings(address=address)


def test_a_shared_folder_has_the_name_of_an_inbox() -> None:
    with pytest.raises(ValueError, match="'talks'; known inboxes: inbox"):
        Settings(inboxes=(InboxSettings(),), cluster=ClusterSettings(folders={"talks": "/mnt"}))


@needs_ray
def test_actors_take_gpus_or_the_cpus_of_the_smallest_node() -> None:
    from speakeasyd.cluster.slots import choose_resources

    head, small, large = (
        create_node("head", CPU=0),
        create_node("small", CPU=4),
        create_node("large", CPU=64),
    )
    with_gpu = create_node("gpu", CPU=8, GPU=2)
    assert choose_resources([head, small, large], on_gpus=None) == {"CPU": 4}
    assert choose_resources([head, small, with_gpu], on_gpus=None) == {"GPU": 1}
    assert choose_resources([head, small, with_gpu], on_gpus=False) == {"CPU": 4}
    lost = create_node("lost", alive=False, GPU=8)
    assert choose_resources([head, large, lost], on_gpus=None) == {"CPU": 64}


@needs_ray
def test_there_is_room_where_every_resource_is_enough() -> None:
    from speakeasyd.cluster.slots import count_room

    nodes = [
        create_node("one", CPU=8, GPU=2),
        create_node("two", CPU=3, GPU=8),
        create_node("lost", alive=False, CPU=64, GPU=8),
        create_node("none"),
    ]
    assert count_room(nodes, {"GPU": 1}) == 10
    assert count_room(nodes, {"CPU": 2, "GPU": 1}) == 3
    assert count_room(nodes, {"CPU": 0.1}) == 110


@needs_ray
def test_other_machines_need_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    from speakeasyd.cluster import access

    monkeypatch.setattr(access, "is_token_auth_enabled", lambda: False)
    here = create_node("here", address="127.0.0.1")
    other = create_node("gpu7", address="203.0.113.9")
    assert access.find_exposure([here], insecure=False) is None
    found = access.find_exposure([here, other], insecure=False)
    assert found
    assert "gpu7" in found.reason
    assert found.needs_person
    assert access.find_exposure([here, other], insecure=True) is None
    monkeypatch.setattr(access, "is_token_auth_enabled", lambda: True)
    assert access.find_exposure([here, other], insecure=False) is None
