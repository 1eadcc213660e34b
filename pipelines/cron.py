"""Check a schedule as Kubeflow's own parser does (robfig/cron 1.2), before anything is sent."""

import re
from calendar import monthrange
from typing import NamedTuple

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_DESCRIPTORS = {"@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"}
_LEAP_YEAR = 2024


class _Field(NamedTuple):
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()
    """Of the values, from `low` on."""


_FIELDS = (
    _Field("second", 0, 59),
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of week", 0, 6, _DAYS),
)


def six_fields(schedule: str) -> str:
    """Return a schedule in the form that is sent to Kubeflow: six fields, seconds first, or a descriptor.

    Five fields are those of crontab. Kubeflow takes five for the first five of six, so that `0 2 * * *` would
    start a run each hour; they are sent with second 0 before them.

    Raises:
        ValueError: it is not valid, or names no day that ever comes.
    """
    fields = schedule.split()
    if schedule.startswith("@"):
        every = re.fullmatch(r"@every (?=\S)(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+)s)?", schedule)
        if every and not any(int(number or 0) for number in every.groups()):
            raise ValueError(f"{schedule!r}: expected a time above 0; Kubeflow would start a run each second")
        if schedule in _DESCRIPTORS or every:
            return schedule
        raise ValueError(f"{schedule!r}: expected one of {', '.join(sorted(_DESCRIPTORS))}, `@every 12h`")
    if len(fields) == 5:
        fields = ["0", *fields]
    if len(fields) != 6:
        raise ValueError(
            f"expected five fields (minute hour day month weekday) or six (second first), got {len(fields)}"
        )
    days = _values(fields[3], _FIELDS[3])
    months = _values(fields[4], _FIELDS[4])
    for field, text in zip(_FIELDS, fields, strict=True):
        _values(text, field)
    # Kubeflow takes a day by either field, but by both where one holds a `*`, such as `*/2`.
    starred = any(_any(part.partition("/")[0]) for field in (fields[3], fields[5]) for part in field.split(","))
    if starred and not any(day <= monthrange(_LEAP_YEAR, month)[1] for day in days for month in months):
        raise ValueError(f"day {fields[3]} does not come in month {fields[4]}, so that it would never start")
    return " ".join(fields)


def _values(text: str, field: _Field) -> set[int]:
    found: set[int] = set()
    for part in text.split(","):
        found |= _range(part, field)
    return found


def _range(part: str, field: _Field) -> set[int]:
    where = f"{field.name} {part!r}"
    span, slash, step_text = part.partition("/")
    low_text, hyphen, high_text = span.partition("-")
    if _any(low_text):
        if hyphen:
            raise ValueError(f"{where}: `*` is all of them and has no end")
        low, high = field.low, field.high
    else:
        low = _number(low_text, field, where)
        high = _number(high_text, field, where) if hyphen else field.high if slash else low
    step = 1
    if slash:
        if not re.fullmatch(r"[0-9]+", step_text) or not int(step_text):
            raise ValueError(f"{where}: after the `/` a number from 1 is expected")
        step = int(step_text)
    if low > high:
        raise ValueError(f"{where}: begins after its end")
    return set(range(low, high + 1, step))


def _number(text: str, field: _Field, where: str) -> int:
    if text.lower() in field.names:
        return field.low + field.names.index(text.lower())
    if not re.fullmatch(r"[0-9]+", text) or not field.low <= int(text) <= field.high:
        names = f" or {field.names[0]} to {field.names[-1]}" if field.names else ""
        raise ValueError(f"{where}: expected {field.low} to {field.high}{names}")
    return int(text)


def _any(text: str) -> bool:
    return text in {"*", "?"}
