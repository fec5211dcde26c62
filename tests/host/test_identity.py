from service.host import identity


def test_the_boot_has_one_id_and_every_start_another() -> None:
    assert identity.boot_id() == identity.boot_id()
    assert len(identity.boot_id()) == 36
    drawn = {identity.start_id() for _ in range(100)}
    assert len(drawn) == 100
    assert all(0 < number < 2**64 for number in drawn)
