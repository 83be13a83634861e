"""The trace of a job as a collector gets it from a real daemon: submit, wait, attempt, and the hook that follows."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from tests.support.collector import Collector
from tests.support.daemon import DaemonProcess
from tests.support.facts import until
from tests.support.work import end_of, job_view, shell, submit

if TYPE_CHECKING:
    from collections.abc import Sequence

HOOK = '[hooks.tell]\non = ["job.failed"]\ncommand = "true"\n'
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "100"}  # milliseconds between two exports
PARTS = 4  # spans of a job with one attempt
CALLER = "b7ad6b7169203331"
TRACE = "0af7651916cd43dd8448eb211c80319c"


def text_of(span: Any, name: str) -> Any:
    (value,) = (each.value for each in span.attributes if each.key == name)
    return value.int_value or value.string_value


def of_job(spans: Sequence[Any], job: int) -> dict[str, Any]:
    return {span.name: span for span in spans if text_of(span, "stoker.job.id") == job}


def test_trace_when_a_job_fails_and_a_hook_follows_then_it_is_one_tree() -> None:
    with Collector() as collector:
        settings = f'[otel]\nexporter = "otlp"\nendpoint = "{collector.endpoint}"\n{HOOK}'
        with DaemonProcess(settings, SOON) as daemon, daemon.client() as client:
            job = submit(client, shell("exit 3"), traceparent=f"00-{TRACE}-{CALLER}-01")
            end_of(client, job)
            (hook,) = until(lambda: client.call("hook.get", {"name": "tell"})["runs"], why="the run of the hook")
            end_of(client, hook["job"])
            assert job_view(client, hook["job"])["trace_id"] == TRACE
            until(lambda: len(collector.spans()) >= 2 * PARTS, why="the spans of both jobs")
        spans = collector.spans()

    failed, told = of_job(spans, job), of_job(spans, hook["job"])
    for parts in (failed, told):
        assert parts.keys() == {"job", "job.submit", "job.wait", "job.attempt"}
        assert {parts[name].parent_span_id for name in parts if name != "job"} == {parts["job"].span_id}
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    assert failed["job"].parent_span_id.hex() == CALLER
    assert told["job"].parent_span_id == failed["job"].span_id
    assert text_of(failed["job"], "stoker.job.state") == "failed"
    assert text_of(failed["job.attempt"], "stoker.attempt.exit_code") == 3
    assert Counter(span.name for span in spans) == {"job": 2, "job.submit": 2, "job.wait": 2, "job.attempt": 2}
    resource = collector.resources()[0]
    assert resource["service.name"] == "stoker"
    assert resource["service.version"]
    assert resource["service.instance.id"]


def test_job_when_the_collector_is_gone_then_it_runs_all_the_same() -> None:
    with Collector() as collector:
        endpoint = collector.endpoint
    with DaemonProcess(f'[otel]\nexporter = "otlp"\nendpoint = "{endpoint}"\n') as daemon, daemon.client() as client:
        assert end_of(client, submit(client, shell("exit 0"))) == ("succeeded", "exit")
