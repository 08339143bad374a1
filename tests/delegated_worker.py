"""What ``fiftyone delegated launch`` does once, in a process that a test can kill; the model is slow and counts its questions.

``python delegated_worker.py LOG [SECONDS]``: runs everything queued; each question takes SECONDS and is a line in LOG.
"""

import sys
import time
from pathlib import Path

from fake_models import FakeSelector
from fiftyone.operators.delegated import DelegatedOperationService

from fiftyone_rexseek.models import registry


class SlowSelector(FakeSelector):
    def __init__(self, log: Path, seconds: float):
        super().__init__()
        self.log, self.seconds = log, seconds

    def select_batch(self, requests, **options):
        time.sleep(self.seconds)
        with self.log.open("a") as file:
            file.writelines(f"{text}\n" for request in requests for text in request.expressions)
        return super().select_batch(requests, **options)


def main(log: str, seconds: str = "0") -> None:
    registry.load = lambda *args, **options: SlowSelector(Path(log), float(seconds))
    DelegatedOperationService().execute_queued_operations()


if __name__ == "__main__":
    main(*sys.argv[1:])
