"""The process of one run of a study."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import warnings
from typing import Any

from .tasks import Task, cause_of

__all__ = ["main"]


def main(values: dict[str, Any]) -> None:
    """Do a task; say on standard output, in lines of JSON, what is wrong.

    When standard input ends, the process that started this one is gone or wants it to stop: then
    training saves its state and stops.
    """
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not ours

    def tell(**said: str) -> None:
        out.write(json.dumps(said) + "\n")
        out.flush()

    threading.Thread(target=_stop_at_end_of_input, daemon=True).start()
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: tell(warning=str(message))
        try:
            Task.from_dict(values).run(lambda line: None, progress=False)
        except KeyboardInterrupt:
            sys.exit(130)
        except Exception as error:
            tell(error=cause_of(error))
            sys.exit(1)


def _stop_at_end_of_input() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
