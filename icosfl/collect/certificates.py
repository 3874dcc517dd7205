"""When this host's certificates end, as a metric: an alarm on it comes before nodes are refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from cryptography import x509
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

NAME = "icosfl_certificate_expiry_timestamp_seconds"


def certificate_families(files: Mapping[str, str]) -> Iterator[Metric]:
    """The end of each certificate that can be read now; one that is not there (yet) has no value.

    Args:
        files: The files by the names that the label `certificate` has.
    """
    family = GaugeMetricFamily(NAME, "When the certificate ends, in seconds since 1970", labels=["certificate"])
    for name, file in files.items():
        try:
            certificate = x509.load_pem_x509_certificate(Path(file).read_bytes())
        except (OSError, ValueError):
            continue
        family.add_metric([name], certificate.not_valid_after_utc.timestamp())
    if family.samples:
        yield family
