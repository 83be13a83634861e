"""Which jobs the screen shows: the choice of states, and the text of the filter. Pure.

Owns the syntax of the filter: `queue:NAME`, `name:TEXT` and `label:K=V` are asked of the daemon, so they reach every
job; other words must be in the text of a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stoker.cli.screen.rows import FINAL, LIVE
from stoker.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stoker.cli.screen.rows import JobRow

FIELDS = ("queue", "name", "label")


class StateChoice(NamedTuple):
    states: tuple[str, ...]
    words: str


# The choices of `f`.
CHOICES = {
    "live": StateChoice(LIVE, "what has not ended"),
    "running": StateChoice(("running",), "what runs now"),
    "waiting": StateChoice(("waiting", "queued"), "waiting or queued"),
    "held": StateChoice(("held",), "what waits for a person"),
    "failed": StateChoice(("failed", "expired"), "failed or expired"),
    "ended": StateChoice(FINAL, "what has ended"),
    "all": StateChoice((*LIVE, *FINAL), "live and ended"),
}


class Query(NamedTuple):
    """`fields` are parameters of job.list, `words` are looked for in each row, `text` is what was typed."""

    choice: str = "live"
    fields: Mapping[str, str] = {}
    words: tuple[str, ...] = ()
    text: str = ""

    @property
    def states(self) -> tuple[str, ...]:
        return CHOICES[self.choice].states

    @property
    def live_states(self) -> tuple[str, ...]:
        return tuple(state for state in self.states if state in LIVE)

    @property
    def final_states(self) -> tuple[str, ...]:
        return tuple(state for state in self.states if state in FINAL)

    def with_text(self, text: str) -> Query:
        """Raises UsageError."""
        fields, words = {}, []
        for word in text.split():
            field, colon, value = word.partition(":")
            if not colon or field not in FIELDS:
                words.append(word.lower())
            elif not value or (field == "label" and "=" not in value):
                form = {"label": "label:K=V"}.get(field, f"{field}:{field.upper()}")
                raise UsageError(f"{word!r} says no {field}: type {form}")
            else:
                fields[field] = value
        return self._replace(fields=fields, words=tuple(words), text=text.strip())

    def asks_the_same(self, other: Query) -> bool:
        """Whether the daemon's answers are the same, so that nothing has to be loaded again."""
        return (self.choice, self.fields) == (other.choice, other.fields)

    def selects(self, row: JobRow) -> bool:
        """Whether the daemon would answer with it, too."""
        label, _, value = self.fields.get("label", "").partition("=")
        return (
            row.state in self.states
            and self.fields.get("queue", row.queue) == row.queue
            and self.fields.get("name", row.name) == row.name
            and (not label or row.labels.get(label) == value)
        )

    def has_words(self, row: JobRow) -> bool:
        if not self.words:
            return True
        text = row.text
        return all(word in text for word in self.words)
