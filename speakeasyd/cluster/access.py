"""Who may use the cluster: Ray runs the code of everyone who reaches it, unless it has a token."""

from collections.abc import Sequence

import psutil
from ray._private.authentication.authentication_utils import is_token_auth_enabled

from speakeasyd.cluster.messages import ClusterLost, Node

HINT = (
    "Run `ray get-auth-token --generate` on one machine, copy its ~/.ray/auth_token to each machine, "
    "set RAY_AUTH_MODE=token for `ray start` and for speakeasyd on each, and start all again. "
    "In a network where everyone may run programs on these machines: cluster.insecure = true"
)


def find_exposure(nodes: Sequence[Node], *, insecure: bool) -> ClusterLost | None:
    """Return why the cluster must not be used; None if it may."""
    if insecure or is_authenticated():
        return None
    others = [node.host for node in nodes if node.alive and not is_this_machine(node.address)]
    if not others:
        return None
    reason = f"the Ray cluster has other machines ({others[0]}) and no authentication"
    return ClusterLost(reason, HINT, needs_person=True)


def is_authenticated() -> bool:
    """Return whether this process, and so each of its cluster, uses Ray's token authentication."""
    return bool(is_token_auth_enabled())


def is_this_machine(address: str) -> bool:
    """Return whether an IP address is one of this machine."""
    own = {one.address for addresses in psutil.net_if_addrs().values() for one in addresses}
    return address in own or address.startswith("127.") or address == "::1"
