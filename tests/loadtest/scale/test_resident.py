from loadtest.scale.curve import QUADRATIC, Curve, Point
from loadtest.scale.resident import members_mb


def test_memory_of_members_grows_with_them_and_is_not_quadratic() -> None:
    found = {count: members_mb(count) for count in (10, 40, 160)}
    assert 0 < found[10] < found[40] < found[160]
    points = tuple(Point(count, megabytes) for count, megabytes in found.items())
    assert Curve("memory", "members", "MB", points).exponent < QUADRATIC
