"""Fan-outs as people bring them: a pipeline of samples and contigs, and a matrix with exceptions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.support.flows import flow, job_of, send, settled, step, workflow_view
from tests.support.work import shell

if TYPE_CHECKING:
    import stoker

SAMPLES = ["HG002", "HG003"]
CONTIGS = ["chr20", "chr21", "chrM"]
BAD = "HG003,chrM"


def ends(client: stoker.Client, workflow: int) -> dict[str, tuple[str, str]]:
    settled(client, workflow)
    return {one["name"]: (one["state"], one["reason"]) for one in workflow_view(client, workflow)["steps"]}


def same(group: str) -> dict[str, str]:
    return {"step": group, "same": "item"}


def test_pipeline_when_one_item_fails_then_only_its_own_chain_stops(client: stoker.Client) -> None:
    of_pair: dict[str, Any] = {"matrix": {"sample": SAMPLES, "contig": CONTIGS}, "env": {"CONTIG": "{{item.contig}}"}}
    steps = {
        "index": step("exit 0"),
        "align": {**step("echo bam=$CONTIG.bam > $STOKER_OUTPUT", "index"), **of_pair},
        "sort": {
            **step('[ "$STOKER_ITEM" != \'{"sample":"HG003","contig":"chrM"}\' ] || exit 4'),
            **of_pair,
            "needs": [same("align")],
        },
        "call": {**step("cat $STOKER_INPUTS_FILE"), **of_pair, "needs": [same("sort"), same("align")]},
        "gather": step("exit 0", "call", when="any_ok"),
        "report": step("exit 0", f"call[{BAD}]", when="any_failed"),
    }

    workflow = send(client, flow(steps))["id"]

    ended = ends(client, workflow)
    pairs = [f"{sample},{contig}" for sample in SAMPLES for contig in CONTIGS]
    assert {name for name, end in ended.items() if end == ("failed", "exit")} == {f"sort[{BAD}]"}
    assert {name for name, end in ended.items() if end == ("skipped", "dependency")} == {f"call[{BAD}]"}
    assert {name for name, (state, _) in ended.items() if state == "succeeded"} == {
        *("index", "gather", "report"),
        *(f"align[{pair}]" for pair in pairs),
        *(f"{group}[{pair}]" for group in ("sort", "call") for pair in pairs if pair != BAD),
    }
    log = json.loads(b"".join(client.logs(job_of(client, workflow, "call[HG002,chr20]"))))
    assert sorted(log) == ["align[HG002,chr20]", "sort[HG002,chr20]"]
    assert log["align[HG002,chr20]"]["outputs"] == {"bam": "chr20.bam"}


def test_matrix_when_it_has_exceptions_then_each_combination_runs_with_its_values(client: stoker.Client) -> None:
    test: dict[str, Any] = {
        **shell('echo "$0 $1 $STOKER_ITEM"'),
        "matrix": {
            "os": ["ubuntu", "windows"],
            "node": [18, 20],
            "exclude": [{"os": "windows", "node": 18}],
            "include": [{"npm": ""}, {"os": "windows", "npm": "6"}, {"os": "macos", "node": 20, "npm": "9"}],
        },
        "name": "test on {{item.os}}",
        "labels": {"os": "{{item.os}}"},
    }
    test["args"] += ["{{item.node}}", "npm={{item.npm}}"]

    workflow = send(client, flow({"test": test, "publish": step("exit 0", "test")}))["id"]

    assert settled(client, workflow) == "succeeded"
    jobs = {one["name"]: one["job"] for one in workflow_view(client, workflow)["steps"]}
    assert {name: b"".join(client.logs(job)).decode() for name, job in jobs.items() if name != "publish"} == {
        "test[ubuntu,18,]": '18 npm= {"os":"ubuntu","node":18,"npm":""}\n',
        "test[ubuntu,20,]": '20 npm= {"os":"ubuntu","node":20,"npm":""}\n',
        "test[windows,20,6]": '20 npm=6 {"os":"windows","node":20,"npm":"6"}\n',
        "test[macos,20,9]": '20 npm=9 {"os":"macos","node":20,"npm":"9"}\n',
    }
    shown = client.call("job.get", {"id": jobs["test[macos,20,9]"]})
    assert (shown["name"], shown["labels"]) == ("test on macos", {"os": "macos"})


def test_list_when_it_is_empty_then_it_counts_as_a_success_behind_its_needs(client: stoker.Client) -> None:
    def with_first(code: int) -> int:
        steps = {
            "first": step(f"exit {code}"),
            "none": step("exit 0", "first", each=[]),
            "pairs": step("exit 0", same("none"), matrix={"x": []}),
            "behind": step("exit 0", "pairs"),
            "alert": step("exit 0", "none", when="any_failed"),
        }
        return int(send(client, flow(steps))["id"])

    succeeded, failed = ends(client, with_first(0)), ends(client, with_first(1))

    assert succeeded.pop("alert") == ("skipped", "not_needed")
    assert {state for state, _ in succeeded.values()} == {"succeeded"}
    assert (failed["first"], failed["alert"]) == (("failed", "exit"), ("succeeded", "exit"))
    assert {failed[name] for name in ("none", "pairs", "behind")} == {("skipped", "dependency")}
