import asyncio
import errno
import os
from contextlib import suppress
from pathlib import Path

import pytest

from service.keeper.promise_file import PromiseFile, TokenFile
from service.keeper.vote import ElectorVote
from service.lease.elector_output import Persist, Remember, SendPersisted
from service.model.machine import Address
from tests.keeper.node import settings_of, until


async def test_an_answer_that_needs_the_disk_waits_for_it_and_others_do_not(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, 0, 1)
    sent: list[bytes] = []
    with PromiseFile(Path(settings.run_dir)) as promises:
        vote = ElectorVote(
            settings, promises, send=lambda to, payload: sent.append(payload), promised=lambda promised: None
        )
        to = Address("127.0.0.1", 1)
        vote.execute(Persist(b"promises", durable=False))
        assert promises.read() == b"promises"
        vote.execute(Persist(b"term", durable=True))
        vote.execute(SendPersisted(to, b"you lead"))
        vote.execute(Remember(b"term and more"))
        assert sent == []
        writing = asyncio.create_task(vote.write_records(stored=lambda: None))
        await until(lambda: sent == [b"you lead"])
        await until(lambda: TokenFile(Path(settings.state_dir)).read() == b"term and more")
        vote.execute(SendPersisted(to, b"still"))
        assert sent[-1] == b"still"
        writing.cancel()
        with suppress(asyncio.CancelledError):
            await writing


async def test_a_full_disk_delays_an_answer_and_never_ends_the_keeper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen end to end: a full state_dir ended the keeper at the next election, and with it every lease of the node."""
    monkeypatch.setattr("service.keeper.vote._DISK_RETRY_FIRST_S", 0.001)
    settings = settings_of(tmp_path, 0, 1)
    sent: list[bytes] = []
    refused = [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))] * 3
    write = TokenFile.write

    def write_or_refuse(self: TokenFile, data: bytes) -> None:
        if refused:
            raise refused.pop()
        write(self, data)

    monkeypatch.setattr(TokenFile, "write", write_or_refuse)
    with PromiseFile(Path(settings.run_dir)) as promises:
        vote = ElectorVote(
            settings, promises, send=lambda to, payload: sent.append(payload), promised=lambda promised: None
        )
        vote.execute(Remember(b"more"))
        writing = asyncio.create_task(vote.write_records(stored=lambda: None))
        await until(lambda: TokenFile(Path(settings.state_dir)).read() == b"more")
        refused += [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))] * 3
        vote.execute(Persist(b"term", durable=True))
        vote.execute(SendPersisted(Address("127.0.0.1", 1), b"you lead"))
        await until(lambda: sent == [b"you lead"])
        assert (refused, TokenFile(Path(settings.state_dir)).read()) == ([], b"term")
        writing.cancel()
        with suppress(asyncio.CancelledError):
            await writing
