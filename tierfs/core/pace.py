"""How fast something may go on average: pure, the clock is an argument."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Pace:
    """So many units per second (0: no limit). What was let through is paid for until `paid_ns`, on any one clock.

    Nothing is saved up while nobody comes: the pace is never exceeded by more than what is let through at once.
    """

    per_second: float
    paid_ns: int = 0

    def wait_ns(self, now_ns: int) -> int:
        """How long the next one has to wait."""
        return max(0, self.paid_ns - now_ns)

    def spent(self, amount: float, now_ns: int) -> "Pace":
        """The pace after so many units were let through, now or as soon as it is their turn."""
        if self.per_second <= 0:
            return self
        return replace(self, paid_ns=max(self.paid_ns, now_ns) + round(amount * 1e9 / self.per_second))
