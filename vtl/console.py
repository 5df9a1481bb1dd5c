"""What people read in the terminal while a run goes on."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np


def say(line: str = "") -> None:
    """Print for people, at once."""
    print(line, flush=True)


class _Lasting:
    """A text stream that goes on, into nothing, where its reader has gone or its disk is full."""

    def __init__(self, stream: Any):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As the stream's."""
        with self._giving_up():
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """As the stream's."""
        with self._giving_up():
            self._stream.flush()

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError):  # ValueError: it was closed
            with suppress(OSError, ValueError):
                # What is still in its buffer goes there too, at the latest when Python ends.
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


def outlive_readers() -> None:
    """Printing can't end a run from here on: neither a closed pipe nor an odd character."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or isinstance(stream, _Lasting):
            continue
        with suppress(AttributeError):  # of what a test puts in its place
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, _Lasting(stream))


class Progress:
    """The line that is shown while a network trains, redrawn in place on a terminal."""

    def __init__(self, first_step: int, num_steps: int, batch_size: int, num_images: int):
        self._step = first_step
        self._num_steps = num_steps
        self._batch_size = batch_size
        self._num_images = num_images
        self._timed_steps = 0
        self._timed_seconds = 0.0
        self._since: float | None = None
        self._text = f"epoch 0  step {first_step}/{num_steps}"

    def show(self, lines: list[dict[str, Any]]) -> None:
        """Show the mean of these steps' metrics; the first call, which compiled, sets the clock."""
        now = time.perf_counter()
        if self._since is not None:
            self._timed_steps += len(lines)
            self._timed_seconds += now - self._since
        self._since = now
        self._step = lines[-1]["step"]
        epochs = self._num_steps * self._batch_size / self._num_images
        accuracy_name = next(name for name in lines[-1] if name.endswith("accuracy"))
        loss, accuracy = (np.mean([x[name] for x in lines]) for name in ("loss", accuracy_name))
        parts = [
            f"epoch {lines[-1]['epoch']:.1f}/{epochs:.1f}",
            f"step {self._step}/{self._num_steps}",
            f"loss {loss:.4f}",
            f"{accuracy_name.replace('_', ' ')} {accuracy:.2%}",
        ]
        if self._timed_steps:
            seconds = self._timed_seconds / self._timed_steps
            parts += [f"{self._batch_size / seconds:.1f} images/s"]
            parts += [f"{format_seconds((self._num_steps - self._step) * seconds)} left"]
        self._text = "  ".join(parts)
        if sys.stdout.isatty():
            print(f"\r\033[K{self._text}", end="", flush=True)

    def end_epoch(self, scores: dict[str, float]) -> None:
        """Leave the epoch's last line standing, with its scores; what follows is not timed."""
        scored = "".join(f"  {name.replace('_', ' ')} {v:.2%}" for name, v in scores.items())
        say(("\r\033[K" if sys.stdout.isatty() else "") + self._text + scored)
        self._since = time.perf_counter()

    def speed(self) -> dict[str, float]:
        """The images a second of the training steps so far, where any was timed."""
        if not self._timed_steps:
            return {}
        return {"images_per_second": self._timed_steps * self._batch_size / self._timed_seconds}


def format_seconds(seconds: float) -> str:
    """`2 h 05 min`, `3 min 20 s` or `41 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
