"""Short words for the entries of this shelf: an answer, its reason, its section."""

from __future__ import annotations

from memcard.core.license import Duty, Term

ALONG = "Pass the license text and the notices on."


def yes(why: str, where: str) -> Term:
    """Allowed, and nothing is asked."""
    return Term("yes", why, where)


def provided(condition: str, where: str) -> Term:
    """Allowed under a condition the reader must check."""
    return Term("if", condition, where)


def unclear(why: str, where: str) -> Term:
    """The text does not settle it."""
    return Term("unknown", why, where)


def no(why: str, where: str) -> Term:
    """Not allowed."""
    return Term("no", why, where)


def notice(where: str, says: str = ALONG) -> Duty:
    """Return the duty to pass the license on."""
    return Duty("notice", says, where)


def changes(where: str) -> Duty:
    """Return the duty to say what was changed."""
    return Duty("changes", "Say that you changed it.", where)


def credit(where: str, says: str = "Name the authors as they ask.") -> Duty:
    """Return the duty to name the author."""
    return Duty("attribution", says, where)


def restricted(where: str, says: str = "Keep to the list of forbidden uses.") -> Duty:
    """Return the duty to keep to a list of forbidden uses."""
    return Duty("use restrictions", says, where)


def non_commercial(where: str, says: str = "Nothing of it may be commercial.") -> Duty:
    """Return the duty not to make money."""
    return Duty("non-commercial", says, where)
