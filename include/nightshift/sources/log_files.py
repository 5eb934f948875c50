"""Files of lines that only grow, read on from where each of them was read before.

How far a file was read is a number of bytes, and a hash of the last of them: a file that is shorter by now,
or has other bytes there, is not what it was. What is wrong with one file keeps no other from being read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from nightshift.sources.prefix import READERS, Files, Listed, Memory, Seen

_CHUNK = 4 << 20
_LONGEST_LINE = 4 * _CHUNK
# So much of what was read last is compared before a file is read on.
_TAIL = 1024


class Log(Seen):
    """How far a file was read. JSON-able.

    Attributes:
        offset: Bytes that were read, in whole lines.
        tail: The last so many of them are compared when the file is read on,
        sha256: by their hash.
    """

    offset: int
    tail: int
    sha256: str

    @classmethod
    def after(cls, content: bytes, offset: int, mark: str = "") -> Log:
        """Return what is remembered of a file that was read up to ``offset``, where ``content`` ends."""
        tail = content[-_TAIL:]
        return cls(mark=mark, offset=offset, tail=len(tail), sha256=hashlib.sha256(tail).hexdigest())


class LogError(Exception):
    """What is wrong with a file.

    Attributes:
        offset: The byte at which a line begins that cannot be read, or None: the file was rewritten.
        message: What is wrong.
    """

    def __init__(self, message: str, offset: int | None = None) -> None:
        """Keep both."""
        self.message = message
        self.offset = offset
        super().__init__(message, offset)


@dataclass(frozen=True)
class Chunk:
    """Whole lines of a file, without their breaks.

    Attributes:
        file: The file, as it was listed.
        start: The byte at which they begin.
        before: The bytes before that, as far as they are compared.
        lines: The lines.
        left_out: Bytes of the line at ``start`` that is skipped; there are no lines then.
    """

    file: Listed
    start: int
    before: bytes
    lines: tuple[bytes, ...]
    left_out: int = 0

    def first(self, number: int) -> Chunk:
        """Return the first lines of it."""
        return Chunk(self.file, self.start, self.before, self.lines[:number])

    @property
    def end(self) -> int:
        """The byte at which they end."""
        return self.start + self.left_out + sum(len(line) + 1 for line in self.lines)

    @property
    def log(self) -> Log:
        """How far the file is read with them."""
        content = self.before + b"".join(line + b"\n" for line in self.lines)
        return Log.after(content, self.end, self.file.mark if self.end >= self.file.size else "")


class LogFiles:
    """The files of one log: yields lines that were not read before, and finds files that were rewritten.

    Attributes:
        faults: What is wrong, by the name of the file. Nothing more is read of it.
    """

    def __init__(self, files: Files, listed: Sequence[Listed], skip: Sequence[str]) -> None:
        """Prepare to read.

        Args:
            files: Where they are.
            listed: Which of them, as they are now.
            skip: Lines that are left out, as ``name@offset``.
        """
        self.faults: dict[str, LogError] = {}
        self._files = files
        self._listed = listed
        self._skip: dict[str, set[int]] = {}
        for place in skip:
            name, _, offset = place.rpartition("@")
            self._skip.setdefault(name, set()).add(int(offset))

    def chunks(self, memory: Memory[Log]) -> Iterator[Chunk]:
        """Yield what follows on what is remembered, file by file.

        Whoever takes a chunk writes into ``memory`` how far; what it has not taken by then comes again.
        """
        waiting = self._unread(memory)
        with ThreadPoolExecutor(READERS) as readers:
            while waiting:
                some, waiting = waiting[:READERS], waiting[READERS:]
                found = readers.map(lambda file: self._chunk(file, memory.files.get(file.name)), some)
                more = []
                for chunk in found:
                    if chunk is not None:
                        yield chunk
                        known = memory.files.get(chunk.file.name)
                        if known and known.mark != chunk.file.mark and chunk.file.name not in self.faults:
                            more.append(chunk.file)
                waiting = more + waiting

    def _unread(self, memory: Memory[Log]) -> list[Listed]:
        """Return the files that may hold lines that were not read, by name."""
        found = []
        for file in sorted(self._listed, key=lambda file: file.name):
            known = memory.files.get(file.name)
            if known and file.size < known.offset:
                self.faults[file.name] = LogError(f"it has {file.size} bytes, and {known.offset} were read")
            elif file.size and memory.mark(file.name) != file.mark:
                found.append(file)
        return found

    def _chunk(self, file: Listed, known: Log | None) -> Chunk | None:
        try:
            return self._ahead(file, known or Log.after(b"", 0), self._skip.get(file.name, set()))
        except LogError as fault:
            self.faults[file.name] = fault
            return None

    def _ahead(self, file: Listed, known: Log, skip: Collection[int]) -> Chunk | None:
        """Return the lines that follow what was read of a file; None if there are none, or it is gone."""
        most = _CHUNK
        while True:
            stop = min(known.offset + most, file.size)
            content = self._files.part(file.name, known.offset - known.tail, stop)
            if content is None:
                return None
            before, ahead = content[: known.tail], content[known.tail :]
            # Compared after it was read: whatever is done to the file from here on, these lines are its own.
            if Log.after(before, known.offset).sha256 != known.sha256:
                raise LogError(f"what stands before byte {known.offset} is not what was read")
            if known.offset in skip:
                return self._beyond(file, known.offset)
            whole = ahead[: ahead.rfind(b"\n") + 1]
            if whole:
                return Chunk(file, known.offset, before, _lines(whole, known.offset, skip))
            if len(ahead) < most:
                return None
            if most >= _LONGEST_LINE:
                raise LogError(f"it has more than {_LONGEST_LINE >> 20} MiB", known.offset)
            most *= 2

    def _beyond(self, file: Listed, start: int) -> Chunk | None:
        """Return a chunk that leaves out the line at ``start``, however long; None while it is not whole."""
        end = start
        while content := self._files.part(file.name, end, min(end + _CHUNK, file.size)):
            place = content.find(b"\n")
            end += len(content) if place < 0 else place + 1
            if place >= 0:
                before = self._files.part(file.name, max(end - _TAIL, 0), end)
                return Chunk(file, start, before, (), end - start) if before else None
        return None


def _lines(whole: bytes, start: int, skip: Collection[int]) -> tuple[bytes, ...]:
    """Return lines that begin at ``start``, up to the first one that is skipped."""
    inside = [at - start for at in skip if 0 < at - start < len(whole)]
    if inside:
        if whole[min(inside) - 1 : min(inside)] != b"\n":
            raise LogError("no line begins at this byte: correct `skip`", start + min(inside))
        whole = whole[: min(inside)]
    return tuple(whole[:-1].split(b"\n"))
