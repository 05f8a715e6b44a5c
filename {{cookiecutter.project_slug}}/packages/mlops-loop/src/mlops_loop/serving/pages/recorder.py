"""A thread that keeps the last hour's samples and the monitor's last windows."""

import logging
import threading
from collections import deque

from sqlalchemy.exc import SQLAlchemyError

from mlops_loop.prediction_log.monitoring_windows import MonitoringWindow, read_windows
from mlops_loop.serving import monitor_metrics
from mlops_loop.serving.pages.samples import RATE_SAMPLES, Sample, take_sample
from mlops_loop.serving.service import Service

SAMPLE_SECONDS = 10  # between two samples
HISTORY_SECONDS = 3600  # that are shown
WINDOWS_EVERY = 3  # samples between two reads of the monitor's windows
WINDOWS_SHOWN = 12
LOGGER = logging.getLogger("uvicorn.error")


class Recorder:
    def __init__(self, service: Service) -> None:
        self.service = service
        self.ended = threading.Event()
        self.samples: deque[Sample] = deque(maxlen=HISTORY_SECONDS // SAMPLE_SECONDS + RATE_SAMPLES)
        self.windows: list[MonitoringWindow] = []
        self.thread = threading.Thread(target=self.run, daemon=True, name="status")

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        self.ended.set()
        self.thread.join(1)

    def run(self) -> None:
        number = 0
        while not self.ended.is_set():
            try:
                self.samples.append(take_sample())
                if number % WINDOWS_EVERY == 0:
                    self.refresh_windows()
            except Exception:  # of whatever kind: the next attempt may work
                LOGGER.exception("the status page could not be updated")
            number += 1
            self.ended.wait(SAMPLE_SECONDS)

    def refresh_windows(self) -> None:
        """Read the monitor's windows; while the database is away, the last ones stay."""
        model = self.service.settings.mlflow_experiment_name
        try:
            self.windows = read_windows(self.service.writer.engine, model, WINDOWS_SHOWN)
        except SQLAlchemyError:  # the writer has logged it
            return
        if self.windows:
            monitor_metrics.set_window(self.windows[-1], self.service.model.bundle.schema)
