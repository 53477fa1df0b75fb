"""What the workers tell Prometheus, by way of the folder that they share with the gateway of the same machine."""

import os

if directory := os.environ.get("QUOTAGATE_METRICS_DIR"):
    os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", directory)

from prometheus_client import Counter, Gauge, Histogram

drained_entries = Counter("quotagate_drained_entries_total", "Entries moved from the journal into the ledger.")
lag_seconds = Histogram(
    "quotagate_drain_lag_seconds",
    "Age of the oldest entry of a batch when it was committed.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60),
)
compared_accounts = Gauge(
    "quotagate_compared_accounts", "Accounts in the last reconciliation.", multiprocess_mode="mostrecent"
)
drifted_accounts = Gauge(
    "quotagate_drifted_accounts", "Accounts that differed from the ledger in it.", multiprocess_mode="mostrecent"
)
missing_accounts = Gauge(
    "quotagate_missing_accounts", "Accounts in it that Redis should have had.", multiprocess_mode="mostrecent"
)
corrected_accounts = Counter("quotagate_corrected_accounts_total", "Accounts that reconciliations have put right.")
mass_drift = Gauge(
    "quotagate_mass_drift",
    "1 while reconciliations correct nothing, because too much has drifted; else 0.",
    multiprocess_mode="mostrecent",
)
swept_accounts = Counter("quotagate_swept_accounts_total", "Idle accounts that resets brought into a new period.")
sealed_periods = Counter("quotagate_sealed_periods_total", "Periods of accounts that resets have sealed.")
differing_periods = Counter(
    "quotagate_differing_periods_total", "Those of them that were not closed with what their entries add up to."
)
rolled_over_units = Counter("quotagate_rolled_over_units_total", "Units that went on into the next period.")
left_to_do = Gauge(
    "quotagate_left_to_do",
    "What an outage has left to do: let_through, lost_replies, take_backs; refused will never be done.",
    ["what"],
    multiprocess_mode="mostrecent",
)
left_to_do_oldest_seconds = Gauge(
    "quotagate_left_to_do_oldest_seconds", "Age of the oldest of each.", ["what"], multiprocess_mode="mostrecent"
)
reconciled_at = Gauge(
    "quotagate_reconciled_timestamp_seconds",
    "When the last reconciliation came to its end.",
    multiprocess_mode="mostrecent",
)
incidents = Gauge(
    "quotagate_incidents", "Incidents of the last 24 hours, by kind.", ["kind"], multiprocess_mode="mostrecent"
)
unsealed_periods = Gauge(
    "quotagate_unsealed_periods",
    "Periods that are over for an hour and were not sealed.",
    multiprocess_mode="mostrecent",
)
