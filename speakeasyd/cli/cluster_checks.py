"""Checks of the Ray cluster, for `cluster status` and `doctor`. They run in a separate process."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from speakeasyd.cli.finding import Finding, Level
from speakeasyd.config import Settings
from speakeasyd.domain.devices import wants_gpus
from speakeasyd.probe import run_probe

SURVEY_S = 180.0  # seconds; Ray waits long for a head that does not answer
_SURVEY = ("-m", "speakeasyd.cluster.survey")
_INSTALL = "pip install 'speakeasyd[cluster]'"


def survey_cluster(settings: Settings) -> Mapping[str, Any]:
    """Return what `speakeasyd.cluster.survey` finds; only `error` if it fails. Blocks."""
    if find_spec("ray") is None:
        return {"error": f"Ray is not installed: {_INSTALL}"}
    arguments = (
        settings.cluster.address,
        json.dumps(settings.cluster.resources),
        json.dumps(wants_gpus(settings.workers.device)),
    )
    return asyncio.run(run_probe(*_SURVEY, *arguments, deadline_s=SURVEY_S))


def describe_actor(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {amount:g}" for name, amount in found["resources"].items())


def check_cluster(settings: Settings) -> Iterator[Finding]:
    if settings.workers.pool != "ray":
        return
    found = survey_cluster(settings)
    if found["error"]:
        hint = "Start Ray on this machine, see docs/cluster.md: ray start --head"
        yield Finding("cluster", Level.FAIL, f"{settings.cluster.address}: {found['error']}", hint)
        return
    count = len(found["nodes"])
    text = f"{count} machines, room for {found['room']} actors with {describe_actor(found)}"
    if found["room"]:
        yield Finding("cluster", Level.OK, text)
    else:
        hint = "Start Ray on more machines, or set cluster.resources to less."
        yield Finding("cluster", Level.FAIL, text, hint)
    for node in found["nodes"]:
        if node["problem"]:
            hint = "Install the same versions of speakeasyd, Python and Ray there."
            yield Finding("cluster", Level.FAIL, f"{node['host']}: {node['problem']}", hint)
    if found["exposure"]:
        level = Level.WARN if settings.cluster.insecure else Level.FAIL
        yield Finding("cluster", level, found["exposure"], found["hint"])
