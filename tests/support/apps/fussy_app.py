"""An app whose start hook fails until a file exists."""

import os
from pathlib import Path

from qworker import App

app = App()


@app.on_child_start
def check() -> None:
    if not Path(os.environ["HOOK_FLAG"]).exists():
        raise RuntimeError("no flag")
