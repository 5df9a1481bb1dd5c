"""The page's words in one language, and how that language writes numbers."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import Markup

from vtl.report.english import WORDS as ENGLISH
from vtl.report.french import WORDS as FRENCH

LANGUAGES = {"en": ENGLISH, "fr": FRENCH}
MINUS = "\N{MINUS SIGN}"
SPACE, THIN_SPACE = "\N{NO-BREAK SPACE}", "\N{NARROW NO-BREAK SPACE}"


class Language:
    """Sentences by key with their values filled in, and numbers for people."""

    def __init__(self, code: str):
        """`code` is one of LANGUAGES."""
        self.code = code
        # A line must not begin with one of these.
        self._words = {
            key: re.sub(" (?=[:;?!%])", SPACE, words) for key, words in LANGUAGES[code].items()
        }

    def __call__(self, key: str, **values: Any) -> Markup:
        """The words of `key`, with `values` escaped; the words themselves may hold HTML."""
        return Markup(self._words[key]).format(**values)

    def number(self, value: float, decimals: int = 1, *, signed: bool = False) -> str:
        """`1,234.5`, with a true minus; French as `1 234,5`."""
        text = f"{value:{'+' if signed else ''},.{decimals}f}".replace("-", MINUS)
        if self.code == "fr":
            text = text.replace(",", THIN_SPACE).replace(".", ",")
        return text

    def percent(self, share: float | None, decimals: int = 1, *, signed: bool = False) -> str:
        """0.825 as `82.5`: mAP is written in percent without its sign."""
        return "–" if share is None else self.number(100 * share, decimals, signed=signed)

    def interval(self, low_high: Sequence[float] | None, *, signed: bool = False) -> str:
        """Shares as `[80.1, 84.3]`; French separates them by a semicolon."""
        if low_high is None:
            return ""
        low, high = (self.percent(share, signed=signed) for share in low_high)
        return self.bracketed("", low, high).strip()

    def estimate(self, share: float | None, low_high: Sequence[float] | None) -> str:
        """`82.5 [80.1, 84.3]`."""
        return f"{self.percent(share)} {self.interval(low_high)}".rstrip()

    def value(self, value: Any) -> Any:
        """A value of a warning; a float is a share."""
        if value is None:
            return "–"
        if isinstance(value, float):
            return self.percent(value)
        return self.number(value, 0) if isinstance(value, int) else value

    def data_set(self, name: str | None) -> str:
        """A data set's name, or words for one without a name."""
        return name or self("unnamed_data")

    def decimal(self, text: str) -> str:
        """A number that another module wrote, such as `>3.1`, in this language."""
        return text.replace(".", ",") if self.code == "fr" else text

    def bracketed(self, value: str, low: str, high: str) -> str:
        """`3.1 [2.8, 3.4]`; French separates the bounds by a semicolon."""
        separator = f"{SPACE}; " if self.code == "fr" else ", "
        return f"{value} [{low}{separator}{high}]"

    def seconds(self, seconds: float) -> str:
        """`2 h 05 min`, `3 min 20 s` or `41 s`."""
        minutes, rest = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        if hours:
            return f"{hours} h {minutes:02} min"
        return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"

    def listing(self, items: Iterable[object], most_named: int | None = None) -> str:
        """`a, b and c`; of more than `most_named` the rest is a number: `a, b and 5 more`."""
        named = [str(item) for item in items]
        if most_named is not None and len(named) > most_named + 1:
            num_more = self.number(len(named) - most_named, 0)
            named[most_named:] = [str(self("num_more", count=num_more))]
        *most, last = named
        return f"{', '.join(most)} {self('and')} {last}" if most else last
