"""What the agent read of the electorate object, on its way to the book: checked as far as it can be here (M2, M8)."""

from collections.abc import Callable

from service.electorate.book import ElectorateBook
from service.keeper.majority import MajorityWatch
from service.keeper.transition import may_follow
from service.keeper.vote import ElectorVote
from service.lease.electorate_message import encode_electorate_message
from service.model.keeper_message import ElectorateRecord
from service.model.lease import Electorate
from service.model.machine import Address


class WrittenElectorate:
    """Offers it, each time the agent says it. Who knows nothing by which it could be checked asks whom it names."""

    def __init__(
        self,
        book: ElectorateBook,
        vote: ElectorVote,
        majority: MajorityWatch,
        *,
        lease_port: int,
        send: Callable[[Address, bytes], None],
    ) -> None:
        self._book = book
        self._vote = vote
        self._majority = majority
        self._lease_port = lease_port
        self._send = send

    def take(self, record: ElectorateRecord) -> None:
        """One heartbeat's word. What is refused is in the book's trouble."""
        electorate = record.electorate
        self._book.offer_written(electorate, begun_anew=record.begun_anew, may_follow=self._may_follow)
        if self._book.known.epoch == 0 and not self._book.trouble:
            # A keeper that knows one tells it to whoever knows an older one (M4): there is no older one than ours.
            payload = encode_electorate_message(self._book.known)
            for elector in electorate.contacts:
                self._send(Address(elector.host, self._lease_port), payload)

    def _may_follow(self, following: Electorate) -> bool:
        epoch_in_force = self._majority.epoch_in_force
        return may_follow(following, self._book.known, self._vote.machine, epoch_in_force=epoch_in_force)
