"""Logs for people and journald, traces and metrics for collectors.

Owns every name that leaves the process this way, and `setup_telemetry`, which loads the exporters if `[otel]` asks for
any. The daemon's behaviour never depends on telemetry.
"""

from __future__ import annotations

from stoker.config import Config
from stoker.telemetry.otel import Telemetry


def setup_telemetry(config: Config, *, version: str = "", instance: str = "") -> Telemetry:
    """The telemetry that `[otel]` asks for. Raises ConfigInvalid if a package or the port for it is missing."""
    if config.otel.exporter == "none" and not config.otel.prometheus_port:
        return Telemetry()
    from stoker.telemetry.exporters import from_settings  # noqa: PLC0415 - 8 MiB that only exporters need

    return from_settings(config.otel, version=version, instance=instance)
