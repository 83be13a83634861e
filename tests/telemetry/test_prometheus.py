"""The shipped files for Prometheus and Grafana, and a real Prometheus that reads a real daemon."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError
from urllib.parse import quote
from urllib.request import urlopen

import pytest

from stoker.telemetry import otel
from tests.support.daemon import DaemonProcess
from tests.support.facts import until
from tests.support.ports import free_port
from tests.support.work import end_of, shell, submit

if TYPE_CHECKING:
    from collections.abc import Iterator

FILES = Path(__file__).parents[2] / "config" / "examples" / "prometheus"
DASHBOARD = FILES / "grafana-dashboard.json"
NEEDS_PROMETHEUS = pytest.mark.skipif(shutil.which("prometheus") is None, reason="no prometheus here")
OF_THE_PROCESS = {"process_cpu_seconds_total", "process_resident_memory_bytes", "up"}
FAILED = 'job_finished_total{stoker_job_state="failed"}'


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, cwd=FILES, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def exported() -> set[str]:
    """The names under which Prometheus sees our metrics."""
    counters = [*otel.Counted, otel.METRIC_FINISHED]
    histograms = [otel.METRIC_WAIT_MS, otel.METRIC_RUN_MS, otel.METRIC_BATCH_SIZE, otel.METRIC_COMMIT_MS]
    gauges = [otel.METRIC_QUEUE_DEPTH, otel.METRIC_QUEUE_RUNNING, otel.METRIC_QUEUE_HELD, otel.METRIC_DISK_FREE]
    names = [f"{name}_total" for name in counters] + [f"{name}_bucket" for name in histograms] + gauges
    return {name.replace(".", "_") for name in names} | OF_THE_PROCESS


def metrics_of(expression: str) -> set[str]:
    """The metrics that an expression reads; recorded ones have colons."""
    plain = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(by|on) \([^)]*\)", " ", expression)
    words = set(re.findall(r"[a-z_:][a-z0-9_:]*", plain))
    return {word for word in words if "_" in word or word == "up"} - {"histogram_quantile"}


@NEEDS_PROMETHEUS
def test_rules_when_promtool_checks_them_then_they_hold() -> None:
    promtool("check", "rules", "stoker.rules.yml")
    promtool("check", "config", "prometheus.yml")


@NEEDS_PROMETHEUS
def test_alerts_when_their_conditions_hold_then_they_fire() -> None:
    promtool("test", "rules", "stoker.test.yml")


def test_rules_when_they_read_a_metric_then_the_daemon_has_it() -> None:
    rules = (FILES / "stoker.rules.yml").read_text()
    expressions = re.findall(r"expr: (?:\|\n)?((?:.+\n)(?:            .+\n)*)", rules)
    recorded = set(re.findall(r"record: (\S+)", rules))

    assert len(expressions) == 13
    assert set().union(*map(metrics_of, expressions)) <= exported() | recorded


@NEEDS_PROMETHEUS
def test_dashboard_when_its_panels_ask_then_the_daemon_has_the_metrics(tmp_path: Path) -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    rules = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(expressions)]
    file = tmp_path / "panels.yml"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))  # JSON is YAML, too

    promtool("check", "rules", file)

    assert set().union(*map(metrics_of, expressions)) <= exported()


class Prometheus:
    """A server that reads one port, and what it knows."""

    def __init__(self, folder: Path, target: int) -> None:
        self._port = free_port()
        config = {
            "global": {"scrape_interval": "1s"},
            "scrape_configs": [{"job_name": "stoker", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}],
        }
        (folder / "prometheus.yml").write_text(json.dumps(config))
        self.process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self._port}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """The series of an expression; none while the server starts."""
        try:
            with urlopen(f"http://127.0.0.1:{self._port}/api/v1/query?query={quote(expression)}", timeout=10) as answer:
                result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        except URLError:
            return []
        return result


@pytest.fixture
def watched() -> Iterator[tuple[DaemonProcess, int]]:
    """A daemon with a port for Prometheus."""
    port = free_port()
    with DaemonProcess(f"[otel]\nprometheus_port = {port}\n") as daemon:
        yield daemon, port


@NEEDS_PROMETHEUS
def test_prometheus_when_it_reads_a_daemon_then_it_knows_the_jobs(
    watched: tuple[DaemonProcess, int], tmp_path: Path
) -> None:
    daemon, port = watched
    with daemon.client() as client:
        end_of(client, submit(client, shell("exit 3")))
    prometheus = Prometheus(tmp_path, port)
    try:
        (failed,) = until(lambda: prometheus.ask(FAILED), why="the first reading")
        (build,) = prometheus.ask("target_info")
        (free,) = until(lambda: prometheus.ask("disk_free_bytes > 0"), why="the first look at the disk")
    finally:
        prometheus.process.terminate()
        prometheus.process.wait()

    assert failed["value"][1] == "1"
    assert failed["metric"]["stoker_queue"] == "default"
    assert (build["metric"]["service_name"], build["metric"]["job"]) == ("stoker", "stoker")
    assert free["metric"]["instance"] == f"127.0.0.1:{port}"
