"""Transcribes the samples on a Ray cluster of two nodes on this machine: `make demo-cluster`."""

import os
import shutil
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

STORE_BYTES = 80 << 20  # of each node
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray then leaves 127.0.0.1 as it is
}
NODE = {
    "num_cpus": 1,
    "node_ip_address": "127.0.0.1",
    "object_store_memory": STORE_BYTES,
    "include_dashboard": False,
}


def main() -> int:
    os.environ |= ENVIRONMENT
    from ray.cluster_utils import Cluster  # noqa: PLC0415 - reads the environment

    print("starting a Ray cluster of two nodes", flush=True)
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    cluster.add_node(**NODE)
    scratch = Path(tempfile.mkdtemp(prefix="speakeasyd-demo-cluster-"))
    try:
        return transcribe_samples(cluster.address, scratch)
    finally:
        cluster.shutdown()
        shutil.rmtree(scratch)


def transcribe_samples(address: str, scratch: Path) -> int:
    """Run the daemon once on the cluster. Returns its exit status."""
    inbox = scratch / "inbox"
    inbox.mkdir()
    for sample in (files("speakeasyd") / "data" / "samples").iterdir():
        if sample.name.endswith(".flac"):
            (inbox / sample.name).write_bytes(sample.read_bytes())
    configuration = scratch / "speakeasyd.toml"
    configuration.write_text(
        f"""
state = "{scratch}/state"
[[inboxes]]
path = "{inbox}"
outbox = "{scratch}/outbox"
[options]
model = "bundled"
[workers]
pool = "ray"
device = "cpu"
[cluster]
address = "{address}"
resources = {{ CPU = 1 }}
"""
    )
    for words in (("cluster", "status"), ("once",)):
        command = [sys.executable, "-m", "speakeasyd", *words, "--config", str(configuration)]
        subprocess.run(command, check=False)
    transcripts = sorted((scratch / "outbox").rglob("*.txt"))
    for file in transcripts:
        print(f"\n{file.name}\n{file.read_text('utf-8').strip()[:300]}")
    return 0 if transcripts else 1


if __name__ == "__main__":
    sys.exit(main())
