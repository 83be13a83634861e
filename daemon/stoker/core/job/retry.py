"""Retries: the decision whether a seen failure is tried again, and when.

Owns the budget (`max_attempts` counts seen failures) and exponential backoff with jitter. The caller draws the random
number, so that a decision can be repeated. A jitter of a tenth spreads the retries of jobs that failed together and
keeps the delay close to the one that was configured (the trade-off: M. Brooker, "Exponential Backoff And Jitter", AWS
Architecture Blog, 2015).
"""

from __future__ import annotations

from math import log

from msgspec import Struct

from stoker.core.job.model import Outcome, OutcomeKind, Spec

JITTER = 0.1


class RetryDecision(Struct, frozen=True):
    """`delay_ms` is None when the failure is final."""

    delay_ms: int | None


GIVE_UP = RetryDecision(None)


class RetryPolicy(Struct, frozen=True):
    """The fields of a spec that decide about retries. Delays in milliseconds."""

    max_attempts: int
    base_delay_ms: int
    backoff_factor: float
    max_delay_ms: int
    no_retry_exit_codes: tuple[int, ...]

    @classmethod
    def of(cls, spec: Spec) -> RetryPolicy:
        return cls(
            spec.max_attempts, spec.base_delay_ms, spec.backoff_factor, spec.max_delay_ms, spec.no_retry_exit_codes
        )

    def after_failure(self, failures: int, outcome: Outcome, luck: float) -> RetryDecision:
        """The decision about failure number `failures` (the first is 1); `luck` is uniform in [0, 1)."""
        if failures >= self.max_attempts or self._permanent(outcome):
            return GIVE_UP
        return RetryDecision(self.delay_ms(failures, luck))

    def delay_ms(self, failures: int, luck: float) -> int:
        """min(base · factor^(failures - 1), max) · uniform(0.9, 1.1), in whole milliseconds."""
        return round(self._backoff_ms(failures) * (1 - JITTER + 2 * JITTER * luck))

    def _backoff_ms(self, failures: int) -> float:
        """The delay without jitter. Logarithms are compared because the power itself may overflow."""
        base, longest = self.base_delay_ms, self.max_delay_ms
        if base == 0 or base >= longest:
            return min(base, longest)
        if (failures - 1) * log(self.backoff_factor) >= log(longest / base):
            return longest
        return base * self.backoff_factor ** (failures - 1)

    def _permanent(self, outcome: Outcome) -> bool:
        match outcome.kind:
            case OutcomeKind.SPAWN_ERROR:
                return True  # a start that failed because the host lacked something is NEVER_STARTED
            case OutcomeKind.EXCEPTION:
                return not outcome.transient
            case OutcomeKind.EXIT:
                return outcome.exit_code in self.no_retry_exit_codes
        return False
