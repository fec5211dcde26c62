"""What the owner of the electorate object is told of one that is refused: an Event, once for what it said.

What keepers and controllers know differs for a moment at each change, so a fault counts when it has lasted, or when the
object is written anew for it. It is told for a while after that: whoever posts it looks only now and then.
"""

from service.model.object_event import ObjectEvent
from service.model.objects import Kind, ObjectKey

LASTING_NS = 2_000_000_000
"""As long as a keeper bears an object that is ahead of it."""
TOLD_NS = 5_000_000_000


class Refusal:
    """Of one object, in one controller. Instants are of one clock that does not go back."""

    def __init__(self, namespace: str, name: str) -> None:
        self._key = ObjectKey(Kind.CONFIG_MAP, namespace, name)
        self._note = ""
        self._since_ns = 0
        self._event: ObjectEvent | None = None
        self._over_ns: int | None = None

    def see(self, note: str, *, uid: str, is_final: bool, now_ns: int) -> None:
        """Look once: `note` is what the object says and why that is refused; empty where it is not.

        `is_final`: nobody else can find it in order.
        """
        if not note:
            self._note = ""
            if self._over_ns is None:
                self._over_ns = now_ns
            return
        if note != self._note:
            self._note, self._since_ns = note, now_ns
        if is_final or now_ns - self._since_ns >= LASTING_NS:
            self._event = ObjectEvent(self._key, "ElectorateRefused", note, "Judge", True, uid=uid)
        self._over_ns = None

    def event(self, *, now_ns: int) -> ObjectEvent | None:
        """What is to be told now, if anything: the same for as long as the same is refused."""
        if self._over_ns is not None and now_ns - self._over_ns >= TOLD_NS:
            self._event = None
        return self._event
