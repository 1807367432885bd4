"""The benchmarks that need no data of others run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PATIENCE_S
from tests.serving_daemon import VOICE_MEMO

pytestmark = pytest.mark.real


def test_the_pipeline_alone_transcribes(tmp_path: Path) -> None:
    output = tmp_path / "texts.json"
    subprocess.run(
        [sys.executable, "-m", "benchmarks.pipeline_alone", "bundled", "cpu", output, VOICE_MEMO],
        check=True,
        timeout=PATIENCE_S,
    )
    texts = json.loads(output.read_text("utf-8"))
    assert list(texts) == [VOICE_MEMO.name]
    assert "dentist" in texts[VOICE_MEMO.name]
