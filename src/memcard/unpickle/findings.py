"""What is wrong with a file, collected until everything was looked at; then one refusal.

A file that asks for code and is damaged as well is unsafe: both are listed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from memcard.core.limits import DEFAULT, Limits
from memcard.errors import CorruptError, FormatError, UnsafeError

_SHOWN = 8

_DAMAGED = "The file is damaged or was made to mislead; get it again from its source."
_HOSTILE = (
    "Nothing was run. Do not load this file with other tools. Whole model objects are refused too: ask "
    "the author for the state dict, best as .safetensors. What tensors the file has can be read with "
    "--salvage, which runs nothing either."
)


@dataclass(slots=True)
class Findings:
    """Faults of one file, in the order they were met."""

    where: str
    limits: Limits = DEFAULT
    asked: dict[str, None] = field(default_factory=dict)  # code the file asks for, with its place
    faults: list[str] = field(default_factory=list)
    # Nonsense that no tensor depends on; in a file that asks for code it is part of the attack.
    odd: list[str] = field(default_factory=list)

    def ask(self, what: str) -> None:
        """Note that the file asks for code."""
        if len(self.asked) < self.limits.asked:
            self.asked[what] = None
        elif len(self.asked) == self.limits.asked:
            self.asked[f"and more than {self.limits.asked} others"] = None

    def add(self, error: FormatError) -> None:
        """Take over what another check found."""
        if isinstance(error, UnsafeError):
            for fault in error.faults:
                self.ask(fault)
        else:
            self.faults.extend(error.faults)

    def merge(self, other: Findings) -> None:
        """Take over all that another check collected."""
        for what in other.asked:
            self.ask(what)
        self.faults += other.faults
        self.odd += other.odd

    def raise_any(self, *, salvage: bool = False) -> None:
        """Refuse the file if anything was found.

        Args:
            salvage: let pass what only asks for code. Damage is refused all the same.

        Raises:
            UnsafeError: it asks for code.
            CorruptError: it is damaged.
        """
        if self.asked and not salvage:
            raise self.unsafe()
        faults = self.faults if self.asked else [*self.odd, *self.faults]
        if faults:
            raise CorruptError(f"{self.where}: {_listed(faults)}. {_DAMAGED}", faults=faults)

    def unsafe(self) -> UnsafeError:
        """Return the refusal of a file that asks for code."""
        faults = [*self.asked, *self.odd, *self.faults]
        return UnsafeError(
            f"{self.where}: asks the reader to run code: {_listed(faults)}. {_HOSTILE}",
            faults=faults,
        )

    def salvage_note(self) -> str:
        """Say in strong words what a salvaged file asked for."""
        return (
            f"DANGER: this file asks the reader to run code: {_listed(self.asked)}. Nothing was run and "
            "only its tensors were read; what the program would have made of them is lost. Do not "
            "load the file with other tools: convert it to .safetensors and delete it."
        )


def _listed(faults: Iterable[str]) -> str:
    found = [fault.rstrip(".") for fault in faults]
    return "; ".join(found[:_SHOWN]) + ("; …" if len(found) > _SHOWN else "")
