"""What a check of a pair has found."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Findings:
    """What a check found: lines to print, mistakes that make a training worthless, and notes that may be intended."""

    lines: list[str] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def section(self, title: str) -> None:
        self.lines += ["", title, "-" * len(title)]

    def row(self, name: str, value: object) -> None:
        self.lines.append(f"{name:<16} {value}")

    def text(self) -> str:
        """Everything as text; the mistakes come last, where a reader looks first."""
        out = list(self.lines)
        for title, entries in (("Notes", self.notes), ("Mistakes", self.mistakes)):
            if entries:
                out += ["", title, "-" * len(title), *(f"* {entry}" for entry in entries)]
        out += ["", f"{len(self.mistakes)} mistakes, {len(self.notes)} notes"]
        return "\n".join(out).lstrip("\n")
