"""`make test-mutants`: sabotage the product one line at a time, and see a test notice each time.

Owns the order (all selected tests without sabotage first, else a mutant proves nothing), the table as it is printed,
and the exit status: zero only if every mutant is caught, or could not be tried here because its tests are skipped.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.mutants.checkout import ROOT, Checkout, Verdict
from tests.mutants.mutants import Mutant, mutants

LIMIT_S = 300.0
TEST_LIMIT_S = 120


def main() -> int:
    chosen = _chosen()
    stale = {name: mistake for name, one in chosen.items() if (mistake := one.stale(ROOT)) is not None}
    for name, mistake in stale.items():
        _say(f"{name}: {mistake}")
    if stale:
        return 1
    began = time.monotonic()
    with Checkout() as copy:
        skipped = _skipped_when_sound(copy, chosen)
        if skipped is None:
            return 1
        survivors = [name for name, one in chosen.items() if not _caught(copy, name, one, skipped)]
    _say(f"{len(chosen)} mutants, {len(survivors)} survived, {time.monotonic() - began:.0f} s")
    return 1 if survivors else 0


def _chosen() -> dict[str, Mutant]:
    parser = argparse.ArgumentParser(prog="make test-mutants ARGS=")
    parser.add_argument("--only", action="append", metavar="NAME", help="this one; may stand more than once")
    parser.add_argument("--list", action="store_true", help="name them and the promises they break, and do nothing")
    asked = parser.parse_args()
    by_name = mutants()
    unknown = set(asked.only or ()) - by_name.keys()
    if unknown:
        parser.error(f"there is no mutant {', '.join(sorted(unknown))}; see --list")
    chosen = {name: by_name[name] for name in asked.only or by_name}
    if asked.list:
        for name, one in chosen.items():
            _say(f"{name:36} {one.promise}")
        raise SystemExit(0)
    return chosen


def _skipped_when_sound(copy: Checkout, chosen: dict[str, Mutant]) -> set[str] | None:
    """The tests that cannot run here; None when one is red without any sabotage."""
    tests = list(dict.fromkeys(test for one in chosen.values() for test in one.tests))
    verdict = copy.test(tests, LIMIT_S * len(tests))
    _row("(no sabotage)", verdict, f"{len(verdict.passed)} passed, {len(verdict.skipped)} skipped")
    bad = [*verdict.failed, *verdict.hung]
    if bad or verdict.complaint:
        _say(verdict.complaint or f"red without any sabotage: {', '.join(bad)}")
        return None
    return set(verdict.skipped)


def _caught(copy: Checkout, name: str, mutant: Mutant, skipped: set[str]) -> bool:
    """One row of the table. A mutant whose tests are all skipped here passes, and its row shows that."""
    with copy.changed(mutant.file, mutant.sabotaged(copy.root)):
        verdict = copy.test(mutant.tests, LIMIT_S, "--exitfirst", f"--timeout={TEST_LIMIT_S}")
    by = [f"{test}: {why}" for test, why in verdict.failed.items()] + (verdict.hung if mutant.hang else [])
    cannot = not by and bool(verdict.skipped) and set(verdict.skipped) <= skipped and not verdict.passed
    _row(name, verdict, _result_text(verdict, by, cannot=cannot))
    return bool(by) or cannot


def _result_text(verdict: Verdict, by: list[str], *, cannot: bool) -> str:
    if by:
        return by[0]
    if cannot:
        return "not tried: its tests are skipped here"
    if verdict.hung:
        return f"SURVIVED: a hang is no catch: {verdict.hung[0]}"
    return f"SURVIVED {verdict.complaint or ''}".rstrip()


def _row(name: str, verdict: Verdict, text: str) -> None:
    _say(f"{name:36} {verdict.seconds:4.0f} s  {text}")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
