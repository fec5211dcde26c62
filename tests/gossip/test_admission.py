from service.gossip.admission import Admission
from service.gossip.config import DEFAULT_CONFIG, GossipConfig

SECOND = 1_000_000_000


def admitted(admission: Admission, tries: int, now_ns: int) -> int:
    return sum(admission.admit(now_ns=now_ns) for _ in range(tries))


def test_a_thousand_members_are_heard_of_at_once() -> None:
    assert admitted(Admission(DEFAULT_CONFIG), 1000, 0) == 1000


def test_beyond_the_burst_names_come_at_the_rate_and_the_burst_does_not_pile_up() -> None:
    admission = Admission(GossipConfig(joins_burst=10, joins_per_second=5))
    assert admitted(admission, 20, 7 * SECOND) == 10
    assert admitted(admission, 20, 8 * SECOND) == 5
    assert admitted(admission, 20, 9 * SECOND - 1) == 4
    assert admitted(admission, 20, 3600 * SECOND) == 10
