"""What JSON and arrays that others wrote must hold: checks that name the key which is wrong."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from vtl.errors import UserError
from vtl.untrusted import printable, reading

Check = Callable[[Any, str], None]
"""(value, its key) -> nothing, or UserError if the value is not what the key should hold."""

MAX_NUMBER = 1e38
"""About float32's largest, in which everything here was computed once."""

MAX_ENTRIES = 100_000
"""Of a list or an object."""

MAX_DEPTH = 20
"""Of objects and lists in one another."""


@contextmanager
def of_file(path: object) -> Iterator[None]:
    """Name the file in whatever is wrong with what it holds, in one line."""
    try:
        with reading(path):
            yield
    except UserError as error:
        shown, words = printable(path), str(error)
        raise UserError(words if words.startswith(shown) else f"{shown}: {words}") from error


def text(value: Any, key: str) -> None:
    """A string that can be written as UTF-8."""
    if not isinstance(value, str):
        raise _wrong(key, "text", value)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _wrong(key, "text in Unicode", value) from None


def flag(value: Any, key: str) -> None:
    """True or false."""
    if not isinstance(value, bool):
        raise _wrong(key, "true or false", value)


def number(value: Any, key: str) -> None:
    """A finite number."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not abs(value) <= MAX_NUMBER:  # NaN is none either
        raise _wrong(key, "a number", value)


def at_least(least: float) -> Check:
    """A finite number from `least` up."""

    def check(value: Any, key: str) -> None:
        number(value, key)
        if value < least:
            raise _wrong(key, f"at least {least:g}", value)

    return check


def share(value: Any, key: str) -> None:
    """A number from 0 to 1."""
    number(value, key)
    if not 0 <= value <= 1:
        raise _wrong(key, "between 0 and 1", value)


def count(value: Any, key: str) -> None:
    """A whole number from 0 up, of at most 64 bits."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**64:
        raise _wrong(key, "a whole number", value)


def maybe(check: Check) -> Check:
    """What passes `check`, or null."""

    def maybe_check(value: Any, key: str) -> None:
        if value is not None:
            check(value, key)

    return maybe_check


def one_of(*choices: str) -> Check:
    """One of some words."""

    def check(value: Any, key: str) -> None:
        if not isinstance(value, str) or value not in choices:
            raise _wrong(key, f"one of {', '.join(choices)}", value)

    return check


def list_of(
    check: Check, *, length: int | None = None, least: int = 0, most: int = MAX_ENTRIES
) -> Check:
    """A list whose entries pass `check`, of a length or of at least one."""

    def check_list(value: Any, key: str) -> None:
        if not isinstance(value, list):
            raise _wrong(key, "a list", value)
        if len(value) < least or len(value) > most or length not in (None, len(value)):
            raise _wrong(key, f"a list of {length or f'{least} or more'}", value)
        for place, entry in enumerate(value):
            check(entry, f"{key}[{place}]")

    return check_list


def dict_of(check: Check, *, keys: Collection[str] | None = None, least: int = 0) -> Check:
    """An object whose values pass `check`; with `keys` it has these and no others."""

    def check_dict(value: Any, key: str) -> None:
        if not isinstance(value, dict):
            raise _wrong(key, "an object", value)
        if len(value) < least or len(value) > MAX_ENTRIES:
            raise _wrong(key, f"an object of {least} or more", value)
        if keys is not None and value.keys() != set(keys):
            names = [printable(name, 40) for name in sorted(set(keys) ^ value.keys())]
            raise UserError(f"'{printable(key, 80)}' lacks, or has too many: {_few(names)}")
        for name, entry in value.items():
            text(name, key)
            check(entry, f"{key}.{name}")

    return check_dict


def record(needed: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """An object with the `needed` keys, perhaps the `optional` ones; what else it has may be."""

    def check_record(value: Any, key: str) -> None:
        if not isinstance(value, dict):
            raise _wrong(key, "an object", value)
        prefix = f"{key}." if key else ""
        if missing := [f"{prefix}{name}" for name in needed if name not in value]:
            raise UserError(f"it lacks {_few(missing)}")
        for name, check in {**needed, **(optional or {})}.items():
            if name in value:
                check(value[name], f"{prefix}{name}")

    return check_record


def cleaned(value: Any, limit: int, depth: int = 0) -> Any:
    """JSON with every string, the keys too, printable, on one line and at most `limit` long."""
    if depth > MAX_DEPTH:
        raise UserError(f"it is nested more than {MAX_DEPTH} deep")
    if isinstance(value, str):
        return printable(value, limit)
    if isinstance(value, list):
        return [cleaned(entry, limit, depth + 1) for entry in value]
    if isinstance(value, dict):
        return {
            printable(key, limit): cleaned(entry, limit, depth + 1) for key, entry in value.items()
        }
    return value


def array(
    arrays: Mapping[str, np.ndarray], key: str, kinds: str, shape: tuple[int | str, ...]
) -> np.ndarray:
    """The array of a key, of one of NumPy's `kinds` and of a shape; a letter is any length but 0.

    Raises:
        UserError: it is missing, of other values or of another shape.
    """
    if key not in arrays:
        raise UserError(f"it lacks '{printable(key, 60)}'")
    found = arrays[key]
    name = printable(key, 60)
    if found.dtype.kind not in kinds:
        wanted = "text" if "U" in kinds else "numbers"
        raise UserError(f"'{name}' holds {printable(found.dtype, 40)} and should hold {wanted}")
    fits = len(shape) == found.ndim and all(
        length > 0 if isinstance(side, str) else length == side
        for side, length in zip(shape, found.shape, strict=True)
    )
    if not fits:
        wanted = "[" + ", ".join(str(side) for side in shape) + "]"
        raise UserError(f"'{name}' has the shape {list(found.shape)} and should have {wanted}")
    return found


NUMBERS = "biuf"
"""The kinds of NumPy's numbers: flags, whole ones and fractions."""


def finite(arrays: Mapping[str, np.ndarray], key: str, shape: tuple[int | str, ...]) -> np.ndarray:
    """The array of a key, of finite numbers that float32 can hold."""
    found = array(arrays, key, NUMBERS, shape)
    bad = int(np.sum(~is_finite(found)))
    if bad:
        raise UserError(f"'{printable(key, 60)}' has {bad:,} values that are NaN or infinite")
    return found


def is_finite(numbers: np.ndarray) -> np.ndarray:
    """Which of some numbers are finite, in float32 too."""
    found = np.isfinite(numbers)
    if numbers.dtype.kind == "f" and numbers.dtype.itemsize > 4:
        found &= np.abs(numbers) <= MAX_NUMBER
    return found


def flags(arrays: Mapping[str, np.ndarray], key: str, shape: tuple[int | str, ...]) -> np.ndarray:
    """The array of a key, all 0 or 1."""
    found = array(arrays, key, NUMBERS, shape)
    is_other = (found != 0) & (found != 1)
    if is_other.any():
        raise UserError(
            f"'{printable(key, 60)}' holds other values than 0 and 1, such as "
            f"{found[is_other][0]:g}"
        )
    return found


def indices(
    arrays: Mapping[str, np.ndarray], key: str, shape: tuple[int | str, ...], end: int
) -> np.ndarray:
    """The array of a key, whole numbers from 0 up to but not at `end`."""
    found = array(arrays, key, "iu", shape)
    if not ((found >= 0) & (found < end)).all():
        raise UserError(f"'{printable(key, 60)}' has numbers that are not from 0 to {end - 1}")
    return found


def texts(arrays: Mapping[str, np.ndarray], key: str, length: int | str) -> tuple[str, ...]:
    """The strings of an array [length]; bytes are read as UTF-8."""
    found = array(arrays, key, "US", (length,))
    try:
        strings = [x.decode() if isinstance(x, bytes) else x for x in found.tolist()]
        "".join(strings).encode()
    except ValueError:
        raise UserError(f"'{printable(key, 60)}' holds text that is not Unicode") from None
    return tuple(strings)


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if names[3:] else ""
    return ", ".join(printable(name, 60) for name in names[:3]) + more


def _wrong(key: str, wanted: str, value: Any) -> UserError:
    kinds = {dict: "an object", list: "a list", bool: str(value).lower(), type(None): "null"}
    if isinstance(value, list | dict):
        shown = f"{kinds[type(value)]} of {len(value)}"
    elif isinstance(value, str):
        shown = f"'{printable(value, 40)}'"
    else:
        shown = kinds.get(type(value)) or printable(_short(value), 40)
    return UserError(f"'{printable(key, 80)}' is {shown} and should be {wanted}")


def _short(value: Any) -> str:
    """A number; one of many digits takes long to write out."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"
    return str(value)


_ACCURACIES = ("accuracy", "balanced_accuracy")
ONE_LABEL = record(
    {
        **dict.fromkeys(_ACCURACIES, share),
        **{f"{name}_interval": list_of(share, length=2) for name in _ACCURACIES},
        "confusion": list_of(list_of(count)),
    }
)
"""What results.json says of a split whose photos have one label each."""

_ESTIMATE = record({"value": maybe(number), "interval": maybe(list_of(number, length=2))})
_ANSWERED = record(dict.fromkeys(("precision", "recall", "f1"), _ESTIMATE))
_CALIBRATION = record(dict.fromkeys(("brier", "reliability"), maybe(number)))
_THRESHOLD = record(
    {
        "threshold": share,
        "interval": maybe(list_of(share, length=2)),
        "positives": count,
        "note": text,
    }
)


def answers(classes: Collection[str] | None = None) -> Check:
    """What results.json says of a split's answers at the thresholds, about these `classes`."""
    return record(
        {
            "by_class": dict_of(_ANSWERED, keys=classes),
            "macro": _ANSWERED,
            "micro": _ANSWERED,
            "before_calibration": _CALIBRATION,
        },
        {"macro_f1_gain": _ESTIMATE, "after_calibration": _CALIBRATION, "is_unseen": flag},
    )


def decisions(classes: Collection[str] | None = None) -> Check:
    """What results.json says of how thresholds and calibration were chosen."""
    return record(
        {
            "rule": text,
            "chosen_on": text,
            "num_images": count,
            "by_class": dict_of(_THRESHOLD, keys=classes),
            "slopes": dict_of(number, keys=classes),
            "intercepts": dict_of(number, keys=classes),
        }
    )


WHY_NOTHING = ("few_photos", "few_shares", "one_draw", "misfit", "flat", "falls")
"""Why a learning curve says nothing of twice the labels."""


def learning_curve(value: Any, key: str) -> None:
    """A learning curve, as results.json has it: a list has an entry for each of its fractions."""
    record({"fractions": list_of(share, least=2, most=1000)})(value, key)
    rising = value["fractions"]
    if rising[0] <= 0 or rising[-1] != 1 or rising != sorted(set(rising)):
        raise _wrong(f"{key}.fractions", "rising to 1", rising)
    pair = list_of(number, length=2)
    estimates = {"map": list_of(number, length=len(rising))} | {
        "map_interval": list_of(pair, length=len(rising))
    }
    measured = record(
        estimates
        | {
            "seconds": list_of(maybe(at_least(0)), length=len(rising)),
            "law": record(
                {
                    "shares": list_of(at_least(1e-9), length=NUM_PLACES),
                    "map": list_of(number, length=NUM_PLACES),
                    "map_interval": list_of(pair, length=NUM_PLACES),
                }
            ),
            "twice": record(
                {
                    "gain": number,
                    "interval": pair,
                    "why_nothing": maybe(one_of(*WHY_NOTHING)),
                }
            ),
        }
    )
    record(
        {
            "protocol": text,
            "draws": at_least(1),
            "photos": list_of(at_least(1), length=len(rising)),
            "num_test": count,
            "missing": dict_of(list_of(text, least=1)),
            "probe": measured,
        },
        {
            "fine_tuned": measured,
            "difference": record(estimates),
            "more": one_of("labels", "finetuning", "open"),
        },
    )(value, key)
    if ("fine_tuned" in value) != ("difference" in value):
        raise UserError(f"'{key}' has one of 'fine_tuned' and 'difference'")


NUM_PLACES = 25
"""Of a learning curve's law that are drawn."""


def low_shot(value: Any, key: str) -> None:
    """A probe's low-shot SVMs, as results.json has them."""
    choice = record({"cost": at_least(0), "map": list_of(share), "mean": share, "deviation": share})
    of_k = record(
        {
            "classes": count,
            "left_out": list_of(text),
            "all_negatives": list_of(text),
            "chosen_on_train": maybe(choice),
            "chosen_on_test": maybe(choice),
        }
    )
    keys = {
        "protocol": text,
        "seeds": list_of(count, least=1, most=1000),
        "negatives_for_each_positive": count,
        "by_k": dict_of(of_k),
    }
    record(keys)(value, key)
    for k in value["by_k"]:
        if not k.isascii() or not k.isdigit():
            raise _wrong(f"{key}.by_k", "by whole numbers", k)
