"""The command line with the scripted engine: `python -m tests.torture.scripted_cli run ...`."""

import sys
from functools import partial

from speakeasyd import cli, daemon
from speakeasyd.cluster import ray_pool
from speakeasyd.domain.device_health import RecoveryPolicy
from speakeasyd.testing import SCRIPTED
from speakeasyd.workers.local_pool import LocalPool
from tests.integration.pools import find_no_fault

POLICY = RecoveryPolicy(probe_s=1.0, person_probe_s=1.0)  # seconds; all other values are defaults


def main() -> int:
    vars(daemon)["LocalPool"] = partial(
        LocalPool, target=SCRIPTED, policy=POLICY, probe=find_no_fault
    )
    # the daemon imports it when it is asked for
    vars(ray_pool)["RayPool"] = partial(
        ray_pool.RayPool, target=SCRIPTED, policy=POLICY, probe=find_no_fault
    )
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
