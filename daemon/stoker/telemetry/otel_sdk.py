"""Telemetry through the OpenTelemetry SDK; imported only when there is an exporter.

Owns the way from completed rows to spans and from calls to measurements. It uses no global provider of the SDK, so
other code in the process cannot change what Stoker reports, and two daemons can run in one test.

Invariants: span ids are derived from the job and its attempts, so a span that is made twice is the same span; if a
collector does not answer, the daemon loses only the spans.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Histogram, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from stoker.core.job.model import Attempt, Job, Outcome, OutcomeKind, State
from stoker.core.job.verdict import failed_by_itself
from stoker.core.trace import TraceParent, attempt_span_id, derived_span_id, make_traceparent
from stoker.telemetry import otel
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log
from stoker.telemetry.otel import Counted, Gauges, Telemetry

CLOSING_S: Final = 2.0
NS_PER_MS: Final = 1_000_000
# From a millisecond to ten days, two steps a decade.
DURATION_MS: Final = (1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5, 3e5, 1e6, 3e6, 1e7, 3e7, 1e8, 3e8, 1e9)
BATCHES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


class ExportingTelemetry(Telemetry):
    """Spans go to `processors`, measurements to `readers`. `close` closes both and then calls the `closers`."""

    def __init__(
        self,
        processors: Sequence[SpanProcessor],
        readers: Sequence[MetricReader],
        *,
        version: str = "",
        instance: str = "",
        closers: Iterable[Callable[[], object]] = (),
    ) -> None:
        resource = Resource.create(
            {"service.name": otel.SERVICE_NAME, "service.version": version, "service.instance.id": instance}
        )
        self._closers = tuple(closers)
        self._ids = _GivenIds()
        self._tracers = TracerProvider(
            sampler=ParentBased(ALWAYS_ON), resource=resource, id_generator=self._ids, shutdown_on_exit=False
        )
        for processor in processors:
            self._tracers.add_span_processor(processor)
        self._tracer = self._tracers.get_tracer(otel.SERVICE_NAME, version)
        self._meters = MeterProvider(readers, resource, shutdown_on_exit=False, views=_views())
        self._instrument(version)

    def _instrument(self, version: str) -> None:
        meter = self._meters.get_meter(otel.SERVICE_NAME, version)
        self._meter = meter
        self._counters = {what: meter.create_counter(what.value, description=what.help) for what in Counted}
        self._finished = meter.create_counter(otel.METRIC_FINISHED, description=otel.HELP[otel.METRIC_FINISHED])
        self._wait_ms = self._histogram(otel.METRIC_WAIT_MS)
        self._run_ms = self._histogram(otel.METRIC_RUN_MS)
        self._batch_size = self._histogram(otel.METRIC_BATCH_SIZE)
        self._commit_ms = self._histogram(otel.METRIC_COMMIT_MS)
        self._backup_ms = self._histogram(otel.METRIC_BACKUP_MS)
        # The SDK does not export a counter before its first add, and an alert needs the zero.
        for counter in self._counters.values():
            counter.add(0)

    def _histogram(self, name: str) -> Histogram:
        return self._meter.create_histogram(name, description=otel.HELP[name])

    def _gauge(self, name: str, observe: Callable[[CallbackOptions], Iterable[Observation]]) -> None:
        self._meter.create_observable_gauge(name, [observe], description=otel.HELP[name])

    def job_submitted(self, job: Job, committed_at: int) -> None:
        span_id = derived_span_id("submit", job.trace_id, job.id)
        self._span(otel.SPAN_SUBMIT, job, span_id, (job.created_at, committed_at), {})

    def attempt_started(self, job: Job, attempt: Attempt, waiting_since: int) -> None:
        began = _began(attempt)
        self._wait_ms.record(max(0, began - waiting_since), {otel.ATTR_QUEUE: job.spec.queue})
        span_id = derived_span_id("wait", attempt.run_id)
        self._span(otel.SPAN_WAIT, job, span_id, (waiting_since, began), {otel.ATTR_ORDINAL: attempt.ordinal})

    def attempt_ended(self, job: Job, attempt: Attempt) -> None:
        assert attempt.outcome is not None, "a settled attempt has an outcome"
        assert attempt.ended_at is not None, "a settled attempt has an end"
        began, outcome = _began(attempt), attempt.outcome
        if attempt.started_at is not None:
            labels = {otel.ATTR_QUEUE: job.spec.queue, otel.ATTR_OUTCOME: outcome.kind.value}
            self._run_ms.record(max(0, attempt.ended_at - began), labels)
        attributes = {
            otel.ATTR_RUN_ID: attempt.run_id,
            otel.ATTR_ORDINAL: attempt.ordinal,
            otel.ATTR_OUTCOME: outcome.kind.value,
            otel.ATTR_EXIT_CODE: outcome.exit_code,
            otel.ATTR_SIGNAL: outcome.signal,
            otel.ATTR_STOP_REASON: attempt.stop_reason,
        }
        span_id = attempt_span_id(attempt.run_id)
        problem = None if _succeeded(job, outcome) else _problem(job, outcome)
        self._span(otel.SPAN_ATTEMPT, job, span_id, (began, attempt.ended_at), attributes, problem=problem)

    def job_finished(self, job: Job) -> None:
        assert job.finished_at is not None, "a final job has an end"
        attributes = {otel.ATTR_NAME: job.spec.name, otel.ATTR_STATE: job.state.value, otel.ATTR_REASON: job.reason}
        reason = "" if job.reason is None else job.reason.value
        labels = {otel.ATTR_QUEUE: job.spec.queue, otel.ATTR_STATE: job.state.value, otel.ATTR_REASON: reason}
        self._finished.add(1, labels)
        problem = job.reason or "failed" if job.state is State.FAILED else None
        self._span(
            otel.SPAN_JOB,
            job,
            otel.job_span_id(job),
            (job.created_at, job.finished_at),
            attributes,
            problem=problem,
            root=True,
        )

    def count(self, what: Counted, number: int = 1, labels: Mapping[str, str] | None = None) -> None:
        self._counters[what].add(number, labels)

    def backup_made(self, took_ms: float) -> None:
        self._backup_ms.record(took_ms)

    def committed(self, requests: int, took_ms: float) -> None:
        self._batch_size.record(requests)
        self._commit_ms.record(took_ms)

    def watch(self, read: Callable[[], Gauges]) -> None:
        def by_queue(pick: Callable[[Gauges], Mapping[str, int]]) -> Callable[[CallbackOptions], list[Observation]]:
            return lambda _: [Observation(count, {otel.ATTR_QUEUE: name}) for name, count in pick(read()).items()]

        def free(_options: CallbackOptions) -> list[Observation]:
            count = read().disk_free_bytes
            return [] if count is None else [Observation(count)]

        self._gauge(otel.METRIC_QUEUE_DEPTH, by_queue(lambda gauges: gauges.queued))
        self._gauge(otel.METRIC_QUEUE_RUNNING, by_queue(lambda gauges: gauges.running))
        self._gauge(otel.METRIC_QUEUE_HELD, by_queue(lambda gauges: gauges.held))
        self._gauge(otel.METRIC_DISK_FREE, free)

    def traceparent(self, job: Job, run_id: str) -> str:
        return make_traceparent(TraceParent(job.trace_id, attempt_span_id(run_id), sampled=otel.is_sampled(job)))

    def close(self) -> None:
        # A collector that hangs must not delay the end of the daemon, and the SDK's own limits are 30 s.
        closing = threading.Thread(target=self._close, name="telemetry-close", daemon=True)
        try:
            closing.start()
        except RuntimeError as error:  # the kernel refuses a thread; the daemon must still close its state
            log(LogEvent.TELEMETRY_LOST, error=error)
        else:
            closing.join(CLOSING_S)

    def _close(self) -> None:
        self._tracers.shutdown()
        self._meters.shutdown(CLOSING_S * 1_000)
        for close in self._closers:
            close()

    def _span(
        self,
        name: str,
        job: Job,
        span_id: str,
        times: tuple[int, int],
        attributes: Mapping[str, Any],
        *,
        problem: str | None = None,
        root: bool = False,
    ) -> None:
        """Make and end one span: a child of the job's span, or (`root`) the job's span itself."""
        self._ids.trace_id, self._ids.span_id = int(job.trace_id, 16), int(span_id, 16)
        began, ended = times
        attributes = {otel.ATTR_JOB: job.id, otel.ATTR_QUEUE: job.spec.queue, **attributes}
        span = self._tracer.start_span(
            name,
            _above(job) if root else _below(job),
            SpanKind.CONSUMER if root else SpanKind.INTERNAL,
            attributes={key: value for key, value in attributes.items() if value is not None},
            start_time=began * NS_PER_MS,
        )
        if problem is not None:
            span.set_status(Status(StatusCode.ERROR, problem))
        span.end(max(began, ended) * NS_PER_MS)


class _GivenIds(IdGenerator):
    """Gives the next span the ids that are set here; the SDK has no other way to choose them."""

    trace_id = 0
    span_id = 0

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id


def _began(attempt: Attempt) -> int:
    """The start of an attempt; for one that never started, its creation."""
    return attempt.created_at if attempt.started_at is None else attempt.started_at


def _succeeded(job: Job, outcome: Outcome) -> bool:
    well = outcome.kind is OutcomeKind.EXIT and outcome.exit_code in job.spec.success_exit_codes
    return well and not outcome.output_refused


def _problem(job: Job, outcome: Outcome) -> str:
    """The error of an attempt. Text that the job itself wrote is not exported: it may be confidential."""
    return outcome.kind.value if failed_by_itself(job.spec, outcome) else outcome.error or outcome.kind.value


def _above(job: Job) -> Context:
    """The context of the caller's span; without one the job's span is the root of its trace."""
    caller = otel.caller_of(job)
    return Context() if caller is None else _context(caller)


def _below(job: Job) -> Context:
    return _context(TraceParent(job.trace_id, otel.job_span_id(job), sampled=otel.is_sampled(job)))


def _context(parent: TraceParent) -> Context:
    flags = TraceFlags(TraceFlags.SAMPLED if parent.sampled else TraceFlags.DEFAULT)
    return set_span_in_context(
        NonRecordingSpan(
            SpanContext(int(parent.trace_id, 16), int(parent.span_id, 16), is_remote=True, trace_flags=flags)
        ),
        Context(),
    )


def _views() -> list[View]:
    """Histograms with buckets up to ten days; the SDK's own end at ten seconds."""
    return [
        View(instrument_name="*ms", aggregation=ExplicitBucketHistogramAggregation(DURATION_MS)),
        View(instrument_name=otel.METRIC_BATCH_SIZE, aggregation=ExplicitBucketHistogramAggregation(BATCHES)),
    ]
