"""`speakeasyd cluster`"""

import typer
from rich.table import Table
from rich.text import Text

from speakeasyd.cli import parameters as given
from speakeasyd.cli.cluster_checks import describe_actor, survey_cluster
from speakeasyd.cli.flags import load_with_flags
from speakeasyd.cli.output import console, print_json

command = typer.Typer(no_args_is_help=True)


@command.callback()
def main() -> None:
    """The Ray cluster of `workers.pool = "ray"`."""


@command.command()
def status(config: given.Config = None, as_json: given.Json = False) -> int:
    """Show the machines of the Ray cluster, and how many workers they have room for.

    Exit status: 0 if the cluster can be used, 1 if not.
    """
    settings = load_with_flags(config).settings
    found = survey_cluster(settings)
    if as_json:
        print_json(found)
        return int(bool(found["error"]))
    if found["error"]:
        console().print(
            Text(f"{settings.cluster.address}: {found['error']}", "bold red"), soft_wrap=True
        )
        return 1
    table = Table("machine", "address", "CPUs", "GPUs", "problem", box=None)
    for node in found["nodes"]:
        table.add_row(
            node["host"],
            node["address"],
            f"{node['cpus']:g}",
            f"{node['gpus']:g}",
            Text(node["problem"], "yellow"),
        )
    console().print(table)
    console().print(f"room for {found['room']} actors, each with {describe_actor(found)}")
    if found["exposure"]:
        console().print(
            Text(f"{found['exposure']}. {found['hint']}", "bold yellow"), soft_wrap=True
        )
    return 0
