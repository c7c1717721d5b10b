"""Errors a user can act on. Each message says the rule, the value received, what is allowed and the next step."""

from __future__ import annotations


class CTGenError(Exception):
    """Base of all deliberate errors.

    Attributes:
        exit_code: what the command line exits with.
        code: the word that JSON events carry.
    """

    exit_code = 1
    code = "internal"


class CasesFailed(CTGenError):
    """Some cases of a batch failed; they are listed in the message."""

    code = "cases"


class InputError(CTGenError):
    """Wrong usage, or input that cannot be what it should be."""

    exit_code = 2
    code = "input"


class WeightsError(CTGenError):
    """Weights are missing, damaged or not yet licensed to be used."""

    exit_code = 3
    code = "weights"


class OutOfMemory(CTGenError):
    """The device ran out of memory; the message names the option to try."""

    exit_code = 4
    code = "memory"


class Cancelled(CTGenError):
    """The user cancelled; nothing was written."""

    exit_code = 130
    code = "cancelled"
