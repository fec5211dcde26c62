"""Tells a publisher's replay from a record that somebody doubled. Pure.

A publisher that starts again goes back to a record that it has sent before, and repeats everything from there on, until
it is past the newest. Within a partition that is a run of copies without a skip.
"""


class Replay:
    """Follows one log's records of one chain, in the log's order."""

    def __init__(self) -> None:
        self._index: dict[int, int] = {}
        """Sequence -> how many came first before it."""
        self._cursor: int | None = None
        """How far the replay under way has come."""
        self._target = 0
        self._run: list[str] = []

    def first(self, sequence: int) -> None:
        """A record that was not there before. One that overtakes a replay was still under way from before it."""
        self._index[sequence] = len(self._index)

    def copy(self, sequence: int, place: str) -> list[str]:
        """A record that was there before. Returns the places of copies that now turn out to be of no replay."""
        index = self._index[sequence]
        doubled: list[str] = []
        if self._cursor is None or index > self._cursor + 1:
            # A skip: what came before it was not the beginning of a replay.
            doubled, self._run = self._run, []
            self._target = len(self._index) - 1
        self._cursor = index
        self._run.append(place)
        if index >= self._target:
            self._cursor, self._run = None, []
        return doubled

    def unfinished(self) -> list[str]:
        """Places of copies in a replay that never came to its end."""
        return self._run
