"""The command line with the scripted engine in place of the model: `python -m tests.torture.scripted run ...`."""

import sys
from functools import partial

from speakeasyd import cli, daemon
from speakeasyd.domain.device_health import RecoveryPolicy
from speakeasyd.testing import SCRIPTED
from speakeasyd.workers.local_pool import LocalPool

POLICY = RecoveryPolicy(probe_s=1.0, person_probe_s=1.0)  # seconds; all else is what people get


async def all_is_well(_device: str) -> str:
    """The probe of a device: the faults are in the script, so there is none to be found."""
    return ""


def main() -> int:
    vars(daemon)["LocalPool"] = partial(
        LocalPool, target=SCRIPTED, policy=POLICY, probe=all_is_well
    )
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
