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

    @property
    def num_settled(self) -> int:
        """Number of characters that no stop text will take away, whatever follows."""
        num_open = max(num_begun(self.text, stop) for stop in (*self._stop, ""))
        start = len(self.text) - num_open
        if self._specials:
            num_open = max(num_begun(self._written, stop) for stop in self._stop)
            start = min(start, self._text_position(len(self._written) - num_open))
        return start

    def _text_position(self, position: int) -> int:
        """Returns the place in the text of one in the text with special tokens."""
        before = [each for each in self._specials if each[1] <= position]
        return position - sum(last - first for first, last in before)

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
                yield self._text_position(start)


def num_begun(text: str, stop: str) -> int:
    """Returns how many characters at a text's end may be the start of another text."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)


def _found(text: str, stop: str, num_old: int) -> Iterator[int]:
    """Yields where each stop text starts that ends after the old part of a text."""
    start = max(0, num_old - len(stop) + 1)
    while (start := text.find(stop, start)) >= 0:
        yield start
        start += 1
