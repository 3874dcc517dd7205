"""rotel as the fleet pins it, with the command line of its role."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import jinja2
import yaml

from icosfl.config import Endpoint
from support.dataclay_stack import SupervisedProcess
from support.exporters import PROJECT, fetched

ROLE = yaml.safe_load((PROJECT / "roles/otel_collector/vars/main.yml").read_text(encoding="utf-8"))


def rotel(listen: Endpoint, http: Endpoint, bridge: Endpoint, log: Path) -> SupervisedProcess:
    """A rotel between `listen` and a bridge, not started; skips the test where the package index cannot be reached."""
    values = {
        "__otel_collector_numeric": listen.host,
        "otel_collector_otlp_port": listen.port,
        "otel_collector_http_port": http.port,
        "otel_collector_push_host": bridge.host,
        "otel_collector_push_port": bridge.port,
    }
    environment = ["env", f"LD_LIBRARY_PATH={sysconfig.get_config_var('LIBDIR')}", "RUST_LOG=warn"]
    arguments = [jinja2.Template(each).render(values) for each in ROLE["__otel_collector_rotel"]]
    return SupervisedProcess("rotel", [*environment, str(fetched("rotel")), "start", *arguments], log, listen)
