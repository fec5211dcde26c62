from service.gossip.awareness import Awareness


def test_the_score_stays_between_zero_and_the_worst() -> None:
    awareness = Awareness(7)
    awareness.improve()
    assert awareness.score == 0
    awareness.worsen(100)
    assert awareness.score == 7


def test_periods_and_timeouts_stretch_by_score_plus_one() -> None:
    """Lifeguard, LHA-Probe: ProbeInterval = BaseProbeInterval * (LHM + 1)."""
    awareness = Awareness(7)
    assert awareness.scale(500) == 500
    awareness.worsen(2)
    assert awareness.scale(500) == 1500
    awareness.improve()
    assert awareness.scale(500) == 1000
