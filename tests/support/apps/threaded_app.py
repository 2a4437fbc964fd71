"""An app whose import leaves a thread running: it cannot be forked."""

import threading
import time

from qworker import App

app = App()
threading.Thread(target=time.sleep, args=(3600,), name="left-behind", daemon=True).start()


@app.task
def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate()]
