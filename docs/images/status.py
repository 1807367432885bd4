"""Makes status.svg from a running daemon: python docs/images/status.py STATE_FOLDER > docs/images/status.svg"""

import io
import re
import sys
from pathlib import Path

from rich.console import Console

from speakeasyd.cli.status import render_status
from speakeasyd.ledger.overview import take_snapshot

console = Console(
    record=True, width=96, file=io.StringIO(), force_terminal=True, color_system="truecolor"
)
console.print(render_status(take_snapshot(Path(sys.argv[1]))))
svg = console.export_svg(title="speakeasyd status --watch")
sys.stdout.write(
    re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
)  # no fonts from elsewhere
