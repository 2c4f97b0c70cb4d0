"""What was dropped, merged, tied or read otherwise than it was written: counted, so that it can be said."""

from __future__ import annotations

from dataclasses import dataclass, field

LOUD = 0.2
"""Share above which a line of the tally is a warning."""


@dataclass
class Tally:
    """Counts of one reading, by what happened.

    Attributes:
        read: rows or events read so far, by kind ("items", "events", "users").
        counts: sentence → (how often, an example). A sentence has ``{n}`` for the count and names the kind that it is a share of last.
        notes: what holds for a whole file, such as its separator; each once.
        harmless: the counts that lose nothing.
    """

    read: dict[str, int] = field(default_factory=dict)
    counts: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    harmless: set[tuple[str, str]] = field(default_factory=set)

    def count(self, kind: str, what: str, example: object = "", n: int = 1, *, loss: bool = True) -> None:
        """Adds `n` of the kind ("events") to those that `what` ("name unknown items, dropped") happened to. Without `loss` a large share
        is no reason for a warning."""
        if not loss:
            self.harmless.add((kind, what))
        before, first = self.counts.get((kind, what), (0, ""))
        self.counts[kind, what] = (before + n, first or str(example)[:120])

    def note(self, text: str) -> None:
        """Adds a sentence about a whole file."""
        self.notes[text] = None

    def share(self, kind: str, what: str) -> float:
        """Share of the kind that `what` happened to."""
        return self.counts.get((kind, what), (0, ""))[0] / max(1, self.read.get(kind, 0))

    def lines(self, examples: bool = True) -> list[str]:
        """Sentences for people, the largest shares first; those above `LOUD` begin with "Warning:". Without `examples` they name nobody, as
        what is published must."""
        found = []
        for (kind, what), (n, example) in sorted(self.counts.items(), key=lambda one: -self.share(*one[0])):
            total = self.read.get(kind, 0)
            part = f" of {total:,}" if total else ""
            per_cent = f" ({self.share(kind, what):.0%})" if total else ""
            such = f", such as {example}" if example and examples else ""
            loud = "Warning: " if self.share(kind, what) > LOUD and (kind, what) not in self.harmless else ""
            found.append(f"{loud}{n:,}{part} {kind}{per_cent} {what}{such}.")
        return [*self.notes, *found]
