"""The text of a continuation, which ends before the first stop text."""

from __future__ import annotations

from collections.abc import Iterator


class GeneratedText:
    """Text that grows token by token until a stop text appears in it.

    A stop text may be a special token or contain some. They are not part of the text,
    but the model wrote them, so they are searched too.

    Attributes:
        text: Text so far, cut before the stop text that ended it.
    """

    def __init__(self, stop: tuple[str, ...]) -> None:
        """Starts empty; without stop texts nothing ends it."""
        self.text = ""
        self._stop = stop
        # The text with special tokens, and where each of them starts and ends in it.
        self._written = ""
        self._specials: list[tuple[int, int]] = []

    def add(self, text: str, special: str = "") -> bool:
        """Adds a text and a special token after it; returns whether a stop text appeared.

        If one did, the text is cut before the first one.
        """
        num_old, num_old_written = len(self.text), len(self._written)
        self.text += text
        if not self._stop:
            return False
        self._written += text + special
        if special:
            end = len(self._written)
            self._specials.append((end - len(special), end))
        starts = [
            start
            for stop in self._stop
            for start in (
                *_found(self.text, stop, num_old),
                *self._found_with_specials(stop, num_old_written),
            )
        ]
        if starts:
            self.text = self.text[: min(starts)]
        return bool(starts)

    def _found_with_specials(self, stop: str, num_old: int) -> Iterator[int]:
        """Yields where in the text each new stop text with special tokens starts."""
        for start in _found(self._written, stop, num_old) if self._specials else ():
            end = start + len(stop)
            # A part of a special token is no stop text.
            is_whole = all(
                last <= start or end <= first or (start <= first and last <= end)
                for first, last in self._specials
            )
            if is_whole:
                before = [each for each in self._specials if each[1] <= start]
                yield start - sum(last - first for first, last in before)


def _found(text: str, stop: str, num_old: int) -> Iterator[int]:
    """Yields where each stop text starts that ends after the old part of a text."""
    start = max(0, num_old - len(stop) + 1)
    while (start := text.find(stop, start)) >= 0:
        yield start
        start += 1
