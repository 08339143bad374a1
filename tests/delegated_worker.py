"""What ``fiftyone delegated launch`` does once, in a process that a test can kill; the model is slow and counts its questions.

``python delegated_worker.py LOG [SECONDS [GATE]]``: runs everything queued; each question takes SECONDS and is a line in LOG.
With GATE, all questions after the first call wait until there is a file of that name.
"""

import sys
import time
from pathlib import Path

from fake_models import FakeSelector
from fiftyone.operators.delegated import DelegatedOperationService

from fiftyone_rexseek.models import registry


class SlowSelector(FakeSelector):
    def __init__(self, log: Path, seconds: float, gate: Path | None = None):
        super().__init__()
        self.log, self.seconds, self.gate = log, seconds, gate

    def select_batch(self, requests, **options):
        while self.calls and self.gate is not None and not self.gate.exists():
            time.sleep(0.1)
        time.sleep(self.seconds)
        with self.log.open("a") as file:
            file.writelines(f"{text}\n" for request in requests for text in request.expressions)
        return super().select_batch(requests, **options)


def main(log: str, seconds: str = "0", gate: str | None = None) -> None:
    wait = None if gate is None else Path(gate)
    registry.load = lambda *args, **options: SlowSelector(Path(log), float(seconds), wait)
    DelegatedOperationService().execute_queued_operations()


if __name__ == "__main__":
    main(*sys.argv[1:])
