"""The rates of keys: ls, set, rm.

Owns how a rate is shown, also that of a queue, which `stoker queue set` changes.
"""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING, Any

from stoker.cli.kit import render, table, values
from stoker.cli.kit.connection import call, connect
from stoker.cli.kit.parser import JSON, REASON, Command, Given, Option, reason_of
from stoker.core.errors import UsageError

if TYPE_CHECKING:
    from stoker.core.rate_views import RateView, TokensView

BURST = Option(
    "--burst",
    "N",
    "how many may start at once after a pause (default: as before; at first 1)",
    convert=values.integer,
)


@Command(options=(JSON,), examples=("stoker rate", "stoker rate ls --json"))
def ls(given: Given) -> None:
    rates: list[RateView] = call(given, "rate.list", {})["rates"]
    if given["json"]:
        render.json_document(rates)
        return
    rows = [(one["key"], one["rate"], one["burst"], *_now(one)) for one in rates]
    table.show(("KEY", "RATE", "BURST", "TOKENS", "NEXT START"), rows, whole=True)


def _now(rate: TokensView) -> tuple[object, object]:
    """The tokens of a rate, and when the next job may start."""
    if rate["tokens"] is None:
        return "each key", "-"
    return rate["tokens"], "now" if rate["tokens"] else f"in {render.span(rate['next_token_in_ms'] or 0)}"


def in_words(rate: TokensView) -> str:
    """`100/m, burst 20; 3 may start now`."""
    text = f"{rate['rate']}, burst {rate['burst']}"
    if rate["tokens"] is None:
        return f"{text}, for each key without a rate of its own"
    tokens, following = _now(rate)
    return f"{text}; {tokens} may start now" if rate["tokens"] else f"{text}; the next start is {following}"


@Command(
    words="KEY [RATE]",
    most=2,
    options=(BURST, REASON, JSON),
    examples=(
        "stoker rate set api.example.com 10/s --burst 5",
        "stoker rate set '*' 100/m --reason 'limit of the provider'",
    ),
)
def set_rate(given: Given) -> None:
    """Jobs with `--rate-key KEY` start at this rate, retries included; * is the rate of each key without its own.

    RATE is a number of starts and a time: 10/s, 100/m, 1/90s, 5000/d. Starts are evenly spaced; with a burst that many
    jobs may start at once after a pause. With --burst alone the rate stays.
    """
    key, *rate = given["words"]
    if not rate and given["burst"] is None:
        raise UsageError("missing RATE", hint=f"stoker rate set {quote(key)} 10/s; stoker rate ls shows what it is now")
    params: dict[str, Any] = {"key": key, **({"rate": rate[0]} if rate else {}), **reason_of(given)}
    if given["burst"] is not None:
        params["burst"] = given["burst"]
    answer = call(given, "rate.set", params)
    if given["json"]:
        render.json_document(answer)
    else:
        render.line(f"rate of {key}: {answer['rate']}, burst {answer['burst']}")


@Command(words="KEY…", options=(REASON, JSON), examples=("stoker rate rm api.example.com",))
def remove(given: Given) -> None:
    answers = []
    with connect(given) as client:
        for key in given["words"]:
            answers.append(client.call("rate.remove", {"key": key, **reason_of(given)}))
            if not given["json"]:
                render.line(f"rate of {key}: removed")
    if given["json"]:
        render.json_document(answers[0] if len(answers) == 1 else answers)
