"""Names that have occurred, on disk, so that any number of them takes no memory."""

from __future__ import annotations

import sqlite3

from llmpq_jax.errors import RequestError


class IdIndex:
    """Names, each with a number, in a temporary file that ends with the process."""

    def __init__(self) -> None:
        """Starts empty."""
        # Without a name, SQLite keeps what outgrows its cache in an unlinked file.
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute(
            "CREATE TABLE seen (id TEXT PRIMARY KEY, number INTEGER) WITHOUT ROWID"
        )
        self._database.execute("BEGIN")

    def add(self, custom_id: str, number: int) -> int | None:
        """Adds a name unless it is there; returns its earlier number, or None if it is new.

        Raises:
            RequestError: If there is no room for temporary files.
        """
        try:
            added = self._database.execute(
                "INSERT OR IGNORE INTO seen VALUES (?, ?)", (custom_id, number)
            )
        except sqlite3.Error as reason:
            msg = f"the names of {number} lines cannot be kept in a temporary file ({reason}): free space there or set TMPDIR to another folder"
            raise RequestError(msg) from reason
        return None if added.rowcount else self.find(custom_id)

    def find(self, custom_id: str) -> int | None:
        """Returns the number of a name, or None if it has not occurred."""
        rows = self._database.execute(
            "SELECT number FROM seen WHERE id = ?", (custom_id,)
        )
        found = rows.fetchone()
        return None if found is None else found[0]

    def close(self) -> None:
        """Deletes the file."""
        self._database.close()
