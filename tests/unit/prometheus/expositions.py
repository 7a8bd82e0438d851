"""What each data plane's scrape target shows, in the Prometheus text format, and a target that shows it."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

CANARY, STABLE = "digits-predictor-00002", "digits-predictor-00001"
STANDARD_CANARY, STANDARD_STABLE = "digits-v2-predictor", "digits-predictor"
BELOW = {"0.005": 0, "0.01": 1, "+Inf": 1}  # every request takes between 5 and 10 ms
# side → status code → requests so far
Requests = dict[str, dict[str, int]]


def knative_otel(requests: Requests) -> str:
    """Queue-proxy's OpenTelemetry histogram, pushed by OTLP to a backend that promotes resource attributes."""
    return _queue_proxy(
        requests,
        lambda side: {
            "k8s_namespace_name": "models",
            "k8s_pod_name": pod(side),
            "kn_configuration_name": "digits-predictor",
            "kn_revision_name": side,
        },
    )


def knative_relabelled(requests: Requests) -> str:
    """The same as `k8s_templates/knative_pod_monitor.yaml` has it scraped: with labels of the pod."""
    return _queue_proxy(
        requests,
        lambda side: {
            "namespace": "models",
            "pod": pod(side),
            "serving_knative_dev_revision": side,
            "serving_knative_dev_configuration": "digits-predictor",
        },
    )


def knative_scraped(requests: Requests) -> str:
    """The same as any PodMonitor has it scraped: nothing but the pod tells revisions apart."""
    return _queue_proxy(requests, lambda side: {"namespace": "models", "pod": pod(side)})


def knative_scraped_twice(requests: Requests) -> str:
    """The same where our PodMonitor stands beside the platform's."""
    return "".join(
        _queue_proxy(requests, partial(_of_job, endpoint=endpoint)) for endpoint in ("http-usermetric", "http-um")
    )


def _of_job(side: str, *, endpoint: str) -> Mapping[str, str]:
    return {"namespace": "models", "pod": pod(side), "endpoint": endpoint}


def knative_bare(requests: Requests) -> str:
    """The same as it is shown by queue-proxy, without any label of the scrape."""
    return _queue_proxy(requests, lambda side: {"addr": side[-5:]})


def _queue_proxy(requests: Requests, labels: Callable[[str], Mapping[str, str]]) -> str:
    scope = {"otel_scope_name": "knative.dev/serving/pkg/queue", "otel_scope_schema_url": "", "otel_scope_version": ""}
    return _text(
        *(
            line
            for side, code, count in _each(requests)
            for line in _histogram(
                "kn_serving_invocation_duration_seconds",
                {"http_response_status_code": code, **scope, **labels(side)},
                count,
            )
        )
    )


def knative_queue_proxy(requests: Requests) -> str:
    """Queue-proxy's own metrics before Knative 1.19; milliseconds."""
    lines = []
    for side, code, count in _each(requests):
        labels = {
            "configuration_name": "digits-predictor",
            "container_name": "queue-proxy",
            "namespace_name": "models",
            "pod_name": pod(side),
            "response_code": code,
            "response_code_class": f"{code[0]}xx",
            "revision_name": side,
        }
        lines.append(_line("revision_app_request_count", labels, count))
        lines += _histogram("revision_app_request_latencies", labels, count, unit=1000)
    return _text(*lines)


def istio(requests: Requests) -> str:
    """The gateway's report, the way over Knative's local gateway, and the server's sidecar, which reports it again."""
    lines = []
    for side, code, count in _each(requests):
        for reporter, service, namespace in (
            ("source", side, "models"),
            ("source", "knative-local-gateway", "istio-system"),
            ("destination", side, "models"),
            ("source", side, "others"),
        ):
            labels = {
                "reporter": reporter,
                "source_workload": "istio-ingressgateway",
                "destination_service": f"{service}.{namespace}.svc.cluster.local",
                "destination_service_name": service,
                "destination_service_namespace": namespace,
                "request_protocol": "http",
                "response_code": code,
                "response_flags": "-",
                "connection_security_policy": "unknown",
            }
            lines.append(_line("istio_requests_total", labels, count))
            lines += _histogram("istio_request_duration_milliseconds", labels, count, unit=1000)
    return _text(*lines)


def ml_serving(requests: Requests) -> str:
    """The serving image's pods, with the labels that the scrape adds; probes and scrapes are counted, too."""
    lines = []
    for side, codes in requests.items():
        target = {"namespace": "models", "pod": pod(side)}
        for endpoint, counts in (("/v2/models/{name}/infer", codes), ("/v2/health/ready", {"200": 999, "503": 50})):
            labels = {"endpoint": endpoint, **target}
            for code, count in counts.items():
                lines.append(_line("ml_serving_requests_total", {"code": code, **labels}, count))
            lines += _histogram("ml_serving_request_duration_seconds", labels, sum(counts.values()))
    return _text(*lines)


def kserve(requests: Requests) -> str:
    """KServe's model servers: durations by model, with the scrape's labels; and somebody's error counter."""
    lines = []
    for side, codes in requests.items():
        target = {"namespace": "models", "pod": pod(side)}
        for step in ("preprocess", "predict"):
            labels = {"model_name": "digits", **target}
            lines += _histogram(f"request_{step}_seconds", labels, sum(codes.values()))
        lines.append(_line("our_failures_total", target, codes.get("503", 0)))
    return _text(*lines)


EXPOSITIONS: Mapping[str, Callable[[Requests], str]] = {
    "knative_otel": knative_otel,
    "knative_queue_proxy": knative_queue_proxy,
    "istio": istio,
    "ml_serving": ml_serving,
    "kserve": kserve,
}


def pod(side: str) -> str:
    """A pod of the Deployment of a revision, or of a Service in Standard mode."""
    return f"{side}-deployment-6b8f9c7d5-x2kvq" if side[-1].isdigit() else f"{side}-6b8f9c7d5-x2kvq"


@contextmanager
def target(text: Callable[[], str], *, seconds: float = 0.0) -> Iterator[int]:
    """The port of a scrape target; an answer takes `seconds`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = text()
            time.sleep(seconds)
            self.send_response(200 if body else 503)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def _each(requests: Requests) -> list[tuple[str, str, int]]:
    return [(side, code, count) for side, codes in requests.items() for code, count in codes.items()]


def _histogram(name: str, labels: Mapping[str, str], count: int, unit: int = 1) -> list[str]:
    buckets = []
    for le, share in BELOW.items():
        bound = le if le == "+Inf" else f"{float(le) * unit:g}"
        buckets.append(_line(f"{name}_bucket", {**labels, "le": bound}, share * count))
    return [*buckets, _line(f"{name}_count", labels, count), _line(f"{name}_sum", labels, 0.007 * unit * count)]


def _line(name: str, labels: Mapping[str, str], value: float) -> str:
    return name + "{" + ",".join(f'{key}="{each}"' for key, each in labels.items()) + "} " + f"{value:g}"


def _text(*lines: str) -> str:
    return "\n".join(lines) + "\n"
