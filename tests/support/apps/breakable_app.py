"""An app whose import fails while a file exists."""

import os
from pathlib import Path

from qworker import App

if Path(os.environ["BROKEN_FLAG"]).exists():
    raise RuntimeError("broken by a deploy")

app = App()


@app.task
def fine() -> str:
    return "fine"
