"""What the next agent of this boot has to know of the traffic of policies, in a map that no program reads (rule B6)."""

import hashlib
import logging
import struct

from service.datapath.attribution import Attribution, Label
from service.datapath.bpf_map import BpfMap, is_full
from service.datapath.traffic import Account, Changes, Numbers

_log = logging.getLogger(__name__)

_KEY = struct.Struct("=8s4s4x")
_VALUE = struct.Struct("=5Q5q")


class TrafficMap:
    """Policies are named in it by a hash: whoever reads it knows which ones there are."""

    def __init__(self, rows: BpfMap) -> None:
        self._rows = rows
        self._is_full = False

    def load(self, attribution: Attribution) -> dict[Label, Account]:
        """Of policies and floating IPs that exist; the rows of others go."""
        names = {_digest(name): name for name in ("", *attribution.policies)}
        found = {}
        for key, value in self._rows.items().items():
            digest, floating_ip = _KEY.unpack(key)
            label = names.get(digest, ""), floating_ip
            if digest in names and attribution.exists(label):
                numbers = _VALUE.unpack(value)
                found[label] = Account(Numbers(*numbers[:5]), Numbers(*numbers[5:]))
            else:
                self._rows.delete(key)
        return found

    def store(self, changes: Changes) -> None:
        """As a sweep has left it. What finds no room counts from nothing at the next start."""
        for label in changes.gone:
            self._rows.delete(_key(label))
        for label, account in changes.stored.items():
            try:
                self._rows.update(_key(label), _VALUE.pack(*account.total, *account.closed))
            except OSError as error:
                if not is_full(error):
                    raise
                if not self._is_full:
                    _log.warning("policy_traffic has no room: counters of some policies begin anew with the agent")
                self._is_full = True


def _key(label: Label) -> bytes:
    return _KEY.pack(_digest(label[0]), label[1])


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=8).digest() if name else bytes(8)
