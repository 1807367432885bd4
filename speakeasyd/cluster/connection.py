"""Connects a process to Ray, and words what goes wrong."""

import os
import socket

import ray
from ray._private.services import canonicalize_bootstrap_address_or_die
from ray.exceptions import AuthenticationError

from speakeasyd.cluster.access import HINT
from speakeasyd.cluster.messages import ClusterLost

NAMESPACE = "speakeasyd"
REACH_S = 10.0  # seconds to reach the head
_LONGEST = 500  # characters of an error


def connect(address: str) -> None:
    """Join the cluster that this machine belongs to. Blocks; raises anything."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = canonicalize_bootstrap_address_or_die(address)
    host, _, port = address.rpartition(":")
    # Ray would try for minutes
    socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S).close()
    ray.init(address=address, namespace=NAMESPACE, configure_logging=False, log_to_driver=False)


def explain_failure(error: Exception) -> ClusterLost:
    """Return what a failure of the connection means for the daemon."""
    text = describe_error(error)
    if isinstance(error, AuthenticationError):
        return ClusterLost(f"the Ray cluster refused the token: {text}", HINT, needs_person=True)
    if "Version mismatch" in str(error):
        hint = "install the same versions of Python and Ray on each machine"
        return ClusterLost(f"the Ray cluster has other versions: {text}", hint, needs_person=True)
    return ClusterLost(f"the Ray cluster does not answer: {text}", "see `ray status` on its head")


def describe_error(error: BaseException) -> str:
    """Return type and text of an error in one line. Of a remote traceback, the last line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[-1] if "Traceback" in str(error) else " ".join(lines)
    return f"{type(error).__name__}: {text}"[:_LONGEST] if text else type(error).__name__
