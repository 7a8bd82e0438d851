"""What the server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "ml_serving_requests", "Requests answered", ["endpoint", "code"], registry=self.registry
        )
        self.duration = Histogram(
            "ml_serving_request_duration_seconds",
            "Time from the request's head to the answer's end",
            ["endpoint"],
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.batch = Histogram(
            "ml_serving_batch_images", "Images in a request", buckets=BATCH_BUCKETS, registry=self.registry
        )
        self.in_flight = Gauge("ml_serving_requests_in_flight", "Under way or waiting", registry=self.registry)
        self.predictions = Counter("ml_serving_predictions", "Answers by class", ["label"], registry=self.registry)
        self.model = Gauge(
            "ml_serving_model_info",
            "1 once it is loaded",
            ["model", "version", "run_id"],
            registry=self.registry,
        )
