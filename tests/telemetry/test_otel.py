"""Traces and metrics through the real SDK into memory; and nothing at all when nothing is exported."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from urllib.request import urlopen

import msgspec
import pytest
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from stoker.config import Config
from stoker.config.settings import OtelSettings
from stoker.core.errors import CannotCreate, ConfigInvalid
from stoker.core.job.model import Attempt, Job, Outcome, OutcomeKind, Reason, Spec, State, StopReason
from stoker.core.trace import parse_traceparent
from stoker.telemetry import metrics_port, otel, otel_sdk, setup_telemetry
from stoker.telemetry.otel import Counted, Gauges, Telemetry
from stoker.telemetry.otel_sdk import ExportingTelemetry
from tests.support.collector import Collector
from tests.support.ports import free_port

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
FIRST, SECOND = "42.1.00000000000000a1", "42.2.00000000000000a2"


def job(traceparent: str | None = None, **standing: Any) -> Job:
    spec = Spec(command="true", working_dir="/", queue="bulk", name="build", traceparent=traceparent)
    values = {"state": State.SUCCEEDED, "created_at": 1_000, "finished_at": 9_000, **standing}
    return Job(id=42, spec=spec, spec_hash=b"", owner_uid=0, trace_id=TRACE, **values)


def attempt(run_id: str, ordinal: int, started_at: int | None, ended_at: int, **outcome: Any) -> Attempt:
    values = {"kind": OutcomeKind.EXIT, "exit_code": 0, **outcome}
    return Attempt(
        run_id=run_id,
        job_id=42,
        ordinal=ordinal,
        launcher="1-abcdef01",
        created_at=started_at or ended_at,
        started_at=started_at,
        ended_at=ended_at,
        outcome=Outcome(**values),
    )


FAILED = attempt(FIRST, 1, 2_000, 3_000, exit_code=7)
WORKED = attempt(SECOND, 2, 5_000, 9_000)


class Memory:
    """A telemetry whose spans and measurements can be looked at."""

    def __init__(self) -> None:
        self._spans = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.telemetry = ExportingTelemetry(
            [SimpleSpanProcessor(self._spans)], [self._reader], version="1", instance="i"
        )

    def spans(self) -> list[ReadableSpan]:
        return list(self._spans.get_finished_spans())

    def metrics(self) -> dict[str, list[Any]]:
        data = self._reader.get_metrics_data()
        assert data is not None
        return {
            metric.name: list(metric.data.data_points)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture
def memory() -> Iterator[Memory]:
    memory = Memory()
    yield memory
    memory.telemetry.close()


def run_through(telemetry: Telemetry, job: Job) -> None:
    """A job that fails once and then succeeds."""
    telemetry.job_submitted(job, 1_003)
    telemetry.attempt_started(job, FAILED, 1_000)
    telemetry.attempt_ended(job, FAILED)
    telemetry.count(Counted.RETRIES, labels={otel.ATTR_QUEUE: job.spec.queue})
    telemetry.attempt_started(job, WORKED, 3_000)
    telemetry.attempt_ended(job, WORKED)
    telemetry.job_finished(job)


# --- spans ------------------------------------------------------------------------------------------------


def test_trace_when_a_job_is_through_then_it_has_a_span_for_each_part(memory: Memory) -> None:
    run_through(memory.telemetry, job())
    times = [(span.name, (span.start_time or 0) // 10**6, (span.end_time or 0) // 10**6) for span in memory.spans()]
    assert times == [
        ("job.submit", 1_000, 1_003),
        ("job.wait", 1_000, 2_000),
        ("job.attempt", 2_000, 3_000),
        ("job.wait", 3_000, 5_000),
        ("job.attempt", 5_000, 9_000),
        ("job", 1_000, 9_000),
    ]


def test_trace_when_no_context_was_sent_then_the_job_is_its_root(memory: Memory) -> None:
    run_through(memory.telemetry, job())
    *parts, root = memory.spans()
    assert root.parent is None
    assert root.kind is SpanKind.CONSUMER
    assert {span.context.trace_id for span in [*parts, root]} == {int(TRACE, 16)}
    assert {span.parent and span.parent.span_id for span in parts} == {root.context.span_id}
    assert len({span.context.span_id for span in [*parts, root]}) == 6


def test_trace_when_a_caller_sent_its_context_then_the_job_hangs_below_it(memory: Memory) -> None:
    run_through(memory.telemetry, job(f"00-{TRACE}-{CALLER}-01"))
    root = memory.spans()[-1]
    assert root.parent is not None
    assert (root.parent.span_id, root.parent.is_remote) == (int(CALLER, 16), True)


def test_trace_when_the_caller_does_not_record_then_neither_do_we(memory: Memory) -> None:
    unrecorded = job(f"00-{TRACE}-{CALLER}-00")
    run_through(memory.telemetry, unrecorded)
    assert memory.spans() == []
    assert memory.telemetry.traceparent(unrecorded, FIRST).endswith("-00")


def test_trace_when_the_daemon_restarts_in_between_then_it_is_the_same_trace() -> None:
    before, after = Memory(), Memory()
    before.telemetry.attempt_ended(job(), FAILED)
    after.telemetry.job_finished(job())
    (part,), (root,) = before.spans(), after.spans()
    assert part.parent is not None
    assert part.parent.span_id == root.context.span_id
    before.telemetry.close()
    after.telemetry.close()


def test_span_when_an_attempt_fails_then_it_says_how(memory: Memory) -> None:
    stopped = attempt(FIRST, 1, 2_000, 3_000, kind=OutcomeKind.SIGNAL, exit_code=None, signal=15)
    memory.telemetry.attempt_ended(job(), msgspec.structs.replace(stopped, stop_reason=StopReason.TIMEOUT))
    memory.telemetry.attempt_ended(job(), WORKED)
    failed, worked = memory.spans()
    assert dict(failed.attributes or {}) == {
        otel.ATTR_JOB: 42,
        otel.ATTR_QUEUE: "bulk",
        otel.ATTR_RUN_ID: FIRST,
        otel.ATTR_ORDINAL: 1,
        otel.ATTR_OUTCOME: "signal",
        otel.ATTR_SIGNAL: 15,
        otel.ATTR_STOP_REASON: "timeout",
    }
    assert (failed.status.status_code, failed.status.description) == (StatusCode.ERROR, "signal")
    assert worked.status.status_code is StatusCode.UNSET


def test_span_when_a_job_fails_then_it_carries_the_reason(memory: Memory) -> None:
    memory.telemetry.job_finished(job(state=State.FAILED, reason=Reason.TIMEOUT))
    memory.telemetry.job_finished(job(state=State.CANCELLED, reason=Reason.USER))
    failed, cancelled = memory.spans()
    assert (failed.status.status_code, failed.status.description) == (StatusCode.ERROR, "timeout")
    assert (cancelled.status.status_code, (cancelled.attributes or {})[otel.ATTR_REASON]) == (StatusCode.UNSET, "user")


def test_span_when_an_attempt_never_started_then_it_has_no_run_time(memory: Memory) -> None:
    never = attempt(FIRST, 1, None, 3_000, kind=OutcomeKind.SPAWN_ERROR, exit_code=None, error="no such file")
    memory.telemetry.attempt_ended(job(), never)
    assert memory.spans()[0].status.description == "no such file"
    assert otel.METRIC_RUN_MS not in memory.metrics()


# --- context out ------------------------------------------------------------------------------------------


def test_traceparent_when_exporting_then_a_workers_spans_hang_below_its_attempt(memory: Memory) -> None:
    memory.telemetry.attempt_ended(job(), FAILED)
    context = parse_traceparent(memory.telemetry.traceparent(job(), FIRST))
    assert context is not None
    assert (context.trace_id, int(context.span_id, 16)) == (TRACE, memory.spans()[0].context.span_id)


def test_traceparent_when_not_exporting_then_the_callers_context_goes_on_as_it_came() -> None:
    sent = f"00-{TRACE}-{CALLER}-00"
    assert Telemetry().traceparent(job(sent), FIRST) == sent
    assert Telemetry().traceparent(job(), FIRST) == f"00-{TRACE}-00000000000000a1-01"


# --- metrics ----------------------------------------------------------------------------------------------


def test_metrics_when_everything_has_happened_then_the_names_are_those_of_the_design(memory: Memory) -> None:
    telemetry = memory.telemetry
    run_through(telemetry, job())
    telemetry.count(Counted.ORPHANED_JOBS, 3)
    telemetry.count(Counted.ZOMBIES_CLEANED, 2)
    telemetry.count(Counted.PURGED_JOBS, 3)
    telemetry.count(Counted.ACCESS_DENIED)
    for what in (Counted.CHECKPOINT_FAILURES, Counted.BACKUP_FAILURES, Counted.SLOW_TURNS, Counted.SLOW_CALLBACKS):
        telemetry.count(what)
    telemetry.count(Counted.THROTTLE_EVENTS, labels={otel.ATTR_CAUSE: "cpu,memory"})
    telemetry.backup_made(250.0)
    telemetry.committed(64, 0.5)
    telemetry.watch(lambda: Gauges({"default": 5, "bulk": 0}, {"default": 2}, {"default": 1}, 1 << 30))
    metrics = memory.metrics()
    assert {name: sum(getattr(point, "value", 0) for point in points) for name, points in metrics.items()} == {
        "recovery.orphaned_jobs": 3,
        "recovery.zombies_cleaned": 2,
        "worker.retry_count": 1,
        "system.cpu_throttle_events": 1,
        "checkpoint.failures": 1,
        "retention.purged_jobs": 3,
        "backup.failures": 1,
        "backup.ms": 0,
        "queue.depth": 5,
        "queue.running": 2,
        "queue.held": 1,
        "disk.free_bytes": 1 << 30,
        "job.finished": 1,
        "job.wait_ms": 0,
        "job.run_ms": 0,
        "commit.batch_size": 0,
        "commit.ms": 0,
        "access.denied": 1,
        "loop.slow_turns": 1,
        "loop.slow_callbacks": 1,
    }
    sums = {name: sum(getattr(point, "sum", 0) for point in points) for name, points in metrics.items()}
    assert (sums["job.wait_ms"], sums["job.run_ms"]) == (3_000, 5_000)
    assert (sums["commit.batch_size"], sums["commit.ms"], sums["backup.ms"]) == (64, 0.5, 250.0)


def test_metrics_when_nothing_has_happened_then_counters_stand_at_zero(memory: Memory) -> None:
    metrics = memory.metrics()
    assert {name: points[0].value for name, points in metrics.items()} == {
        "recovery.orphaned_jobs": 0,
        "recovery.zombies_cleaned": 0,
        "worker.retry_count": 0,
        "system.cpu_throttle_events": 0,
        "checkpoint.failures": 0,
        "retention.purged_jobs": 0,
        "backup.failures": 0,
        "access.denied": 0,
        "loop.slow_turns": 0,
        "loop.slow_callbacks": 0,
    }


def test_queue_depth_when_it_changes_then_the_newest_is_exported(memory: Memory) -> None:
    depths = {"default": 1}
    memory.telemetry.watch(lambda: Gauges(queued=depths))
    memory.metrics()
    depths = {"default": 7, "bulk": 2}
    points = memory.metrics()[otel.METRIC_QUEUE_DEPTH]
    assert {point.attributes[otel.ATTR_QUEUE]: point.value for point in points} == depths


def test_run_time_when_a_job_takes_days_then_it_has_a_bucket(memory: Memory) -> None:
    memory.telemetry.attempt_ended(job(), attempt(FIRST, 1, 0, 3 * 86_400_000))
    (point,) = memory.metrics()[otel.METRIC_RUN_MS]
    assert point.bucket_counts[-1] == 0


# --- exporters --------------------------------------------------------------------------------------------


def configured(**settings: Any) -> Config:
    return Config(otel=OtelSettings(**settings))


def test_setup_when_nothing_is_exported_then_the_sdk_is_not_even_imported() -> None:
    script = (
        "import sys\nfrom stoker.config import Config\nfrom stoker.telemetry import setup_telemetry\n"
        "setup_telemetry(Config()).close()\nprint(any(name.startswith('opentelemetry') for name in sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    assert done.stdout == "False\n"


def test_setup_when_nothing_is_exported_then_every_call_does_nothing() -> None:
    telemetry = setup_telemetry(Config())
    run_through(telemetry, job())
    telemetry.count(Counted.PURGED_JOBS, 3)
    telemetry.committed(1, 1)
    telemetry.watch(Gauges)
    telemetry.close()


def test_setup_when_the_console_is_asked_for_then_spans_come_out_line_by_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    telemetry = setup_telemetry(configured(exporter="console"), version="1")
    run_through(telemetry, job())
    telemetry.close()
    lines = [msgspec.json.decode(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["name"] for line in lines if "name" in line].count("job.attempt") == 2
    assert any("resource_metrics" in line for line in lines)


@pytest.mark.parametrize(
    ("settings", "package", "extra"),
    [
        ({"exporter": "otlp"}, "opentelemetry.exporter.otlp.proto.http.trace_exporter", "otlp"),
        ({"prometheus_port": 9464}, "opentelemetry.exporter.prometheus", "prometheus"),
    ],
)
def test_setup_when_a_package_is_missing_then_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigInvalid, match="needs packages that are not installed") as refused:
        setup_telemetry(configured(**settings))
    assert refused.value.hint == f"pip install 'stoker[{extra}]'"


def test_otlp_when_a_collector_listens_then_spans_and_metrics_arrive() -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra stoker[otlp] is not installed")
    with Collector() as collector:
        telemetry = setup_telemetry(configured(exporter="otlp", endpoint=f"http://127.0.0.1:{collector.server_port}/"))
        run_through(telemetry, job())
        telemetry.close()
    assert "job.attempt" in [span.name for span in collector.spans()]
    assert "job.run_ms" in [metric.name for metric in collector.metrics()]


def test_prometheus_when_the_port_is_read_then_the_metrics_are_there() -> None:
    pytest.importorskip("opentelemetry.exporter.prometheus", reason="the extra stoker[prometheus] is not installed")
    port = free_port()
    telemetry = setup_telemetry(configured(prometheus_port=port))
    run_through(telemetry, job())
    with pytest.raises(CannotCreate, match=f"prometheus_port = {port}"):
        setup_telemetry(configured(prometheus_port=port))
    with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    telemetry.close()
    assert "worker_retry_count_total{" in text
    assert "job_run_ms_bucket{" in text


def test_prometheus_when_many_connections_say_nothing_then_they_take_few_threads() -> None:
    pytest.importorskip("opentelemetry.exporter.prometheus", reason="the extra stoker[prometheus] is not installed")
    port, before = free_port(), threading.active_count()
    telemetry = setup_telemetry(configured(prometheus_port=port))
    with ExitStack() as opened:
        silent = [opened.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(100)]
        ended = [connection.recv(1) for connection in silent[metrics_port.MOST_READERS :]]
        threads = threading.active_count() - before
        ended += [connection.recv(1) for connection in silent[: metrics_port.MOST_READERS]]  # after a while
    with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    telemetry.close()

    assert threads <= metrics_port.MOST_READERS + 2
    assert ended == [b""] * 100
    assert "worker_retry_count_total{" in text


class Hanging(SpanExporter):
    """A collector that never answers."""

    def __init__(self) -> None:
        self.let_go = threading.Event()

    def export(self, _spans: Any) -> SpanExportResult:
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        self.let_go.wait()


def test_close_when_a_collector_hangs_then_the_daemon_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otel_sdk, "CLOSING_S", 0.1)
    hanging = Hanging()
    telemetry = ExportingTelemetry([SimpleSpanProcessor(hanging)], [])
    telemetry.close()
    assert not hanging.let_go.is_set()
    hanging.let_go.set()
