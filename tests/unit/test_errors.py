"""The exit codes are a contract with scripts: they never change."""

import pytest

from memcard import errors

CODES = {
    "MemcardError": 1,
    "UsageError": 2,
    "UnsafeError": 3,
    "CorruptError": 4,
    "UnsupportedError": 5,
    "NotFoundError": 6,
    "MismatchError": 7,
    "LicenseError": 7,
    "IntegrityError": 8,
    "LockedError": 9,
    "DiskError": 10,
}


@pytest.mark.parametrize(("name", "code"), CODES.items())
def test_exit_codes_are_frozen(name: str, code: int) -> None:
    assert getattr(errors, name).exit_code == code


def test_the_drawn_tree_names_every_error() -> None:
    defined = {
        n
        for n, v in vars(errors).items()
        if isinstance(v, type) and issubclass(v, errors.MemcardError)
    }

    assert defined == {*CODES, "FormatError"}
    assert all(name in errors.__doc__ for name in defined)


def test_a_format_error_without_a_list_has_its_message_as_its_fault() -> None:
    assert errors.CorruptError("short").faults == ("short",)
    assert errors.CorruptError("two faults", faults=["a", "b"]).faults == ("a", "b")
