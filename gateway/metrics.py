"""What this process tells Prometheus. With QUOTAGATE_METRICS_DIR the processes of one machine add up in that folder:
the variable is handed to prometheus_client before it is imported, which is when it looks.
"""

import os
from functools import lru_cache

if directory := os.environ.get("QUOTAGATE_METRICS_DIR"):
    os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", directory)

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

requests = Counter("quotagate_requests_total", "HTTP requests answered.", ["route", "status"])
request_seconds = Histogram(
    "quotagate_request_seconds",
    "Seconds from a request's body to its answer.",
    ["route"],
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.5),
)
decisions = Counter("quotagate_decisions_total", "Decisions on the hot path.", ["route", "outcome"])
counters_away = Gauge(
    "quotagate_counters_away", "Processes for which the counters do not answer.", multiprocess_mode="livesum"
)
spooled_bytes = Gauge(
    "quotagate_spooled_bytes",
    "Bytes on this machine's disk that wait for the ledger, of all processes.",
    multiprocess_mode="livemostrecent",
)
journal_entries = Gauge(
    "quotagate_journal_entries", "Entries that wait in Redis for the ledger.", multiprocess_mode="mostrecent"
)

most_journal_entries = Gauge(
    "quotagate_journal_entries_max",
    "Entries that may wait there before requests are refused.",
    multiprocess_mode="mostrecent",
)
clock_steps = Counter("quotagate_clock_steps_total", "Steps back of Redis's clock that a process has seen.")

# Looked up once: finding a child by its labels costs more than counting.
requests_of = lru_cache(maxsize=4096)(lambda route, status: requests.labels(route, str(status)))
seconds_of = lru_cache(maxsize=64)(request_seconds.labels)
decisions_of = lru_cache(maxsize=64)(decisions.labels)


def exposition() -> tuple[str, bytes]:
    """Content type and text: of all processes that share the folder, or of this one alone."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return CONTENT_TYPE_LATEST, generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return CONTENT_TYPE_LATEST, generate_latest(registry)
