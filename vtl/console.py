"""What a run prints for the people who watch it."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np


def say(line: str = "") -> None:
    """Print a line and flush it."""
    print(line, flush=True)


class _Lasting:
    """A text stream that writes into nothing once its reader has gone or its disk is full."""

    def __init__(self, stream: Any):
        self._stream = stream
        self._last = "\n"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text as the stream does."""
        self._last = text[-1:] or self._last
        with self._giving_up():
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush as the stream does."""
        with self._giving_up():
            self._stream.flush()

    def end_line(self) -> None:
        """Begin a new line, unless the stream is at a line's start."""
        if self._last not in "\r\n":
            self.write("\n")
            self.flush()

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError):  # ValueError if it was closed
            with suppress(OSError, ValueError):
                # The rest of its buffer goes there too, at the latest when Python exits.
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


def outlive_readers() -> None:
    """From now on neither a closed pipe nor an odd character ends a run that prints."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or isinstance(stream, _Lasting):
            continue
        with suppress(AttributeError):  # a test may have replaced the stream
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, _Lasting(stream))


def end_lines() -> None:
    """End a line that was begun, such as a bar's, before something else is said."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, _Lasting):
            stream.end_line()


class Progress:
    """One line on how training goes; a terminal redraws it in place."""

    def __init__(self, first_step: int, num_steps: int, batch_size: int, num_images: int):
        self._step = first_step
        self._num_steps = num_steps
        self._batch_size = batch_size
        self._num_images = num_images
        self._timed_steps = 0
        self._timed_seconds = 0.0
        self._shown_at: float | None = None
        self._text = f"epoch 0  step {first_step}/{num_steps}"

    def show(self, lines: list[dict[str, Any]]) -> None:
        """Show the mean of these steps' metrics.

        The steps of the first call are not timed, because they include compilation.
        """
        now = time.perf_counter()
        if self._shown_at is not None:
            self._timed_steps += len(lines)
            self._timed_seconds += now - self._shown_at
        self._shown_at = now
        self._step = lines[-1]["step"]
        epochs = self._num_steps * self._batch_size / self._num_images
        parts = [
            f"epoch {lines[-1]['epoch']:.1f}/{epochs:.1f}",
            f"step {self._step}/{self._num_steps}",
        ]
        if of_labels := [line for line in lines if "loss" in line]:  # some label counted
            accuracy_name = next(name for name in of_labels[0] if name.endswith("accuracy"))
            loss = np.mean([line["loss"] for line in of_labels])
            accuracy = np.mean([line[accuracy_name] for line in of_labels])
            parts += [f"loss {loss:.4f}", f"{accuracy_name.replace('_', ' ')} {accuracy:.2%}"]
        if self._timed_steps:
            seconds = self._timed_seconds / self._timed_steps
            parts += [f"{self._batch_size / seconds:.1f} images/s"]
            parts += [f"{format_seconds((self._num_steps - self._step) * seconds)} left"]
        self._text = "  ".join(parts)
        if sys.stdout.isatty():
            print(f"\r\033[K{self._text}", end="", flush=True)

    def end_epoch(self, scores: dict[str, float]) -> None:
        """Print the epoch's last line with its scores; the time they took does not count."""
        score_text = "".join(
            f"  {name.replace('_', ' ')} {format(score, '.4f' if name.endswith('loss') else '.2%')}"
            for name, score in scores.items()
            if name != "mix" and not name.startswith("best_")  # they follow from the others
        )
        say(("\r\033[K" if sys.stdout.isatty() else "") + self._text + score_text)
        self._shown_at = time.perf_counter()

    def speed(self) -> dict[str, float]:
        """Images per second over the steps timed so far; empty if there are none."""
        if not self._timed_steps:
            return {}
        return {"images_per_second": self._timed_steps * self._batch_size / self._timed_seconds}


def format_seconds(seconds: float) -> str:
    """`2 h 05 min`, `3 min 20 s` or `41 s`."""
    all_minutes, whole_seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(all_minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {whole_seconds:02} s" if minutes else f"{whole_seconds} s"
