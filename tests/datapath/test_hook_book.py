"""What status says of our hooks, and which devices are left to their CNI for a while."""

from service.datapath.hook_book import SETTLE_S, HookBook, Newcomers
from service.network.hook import Attachment, HookKind


def test_each_device_shows_the_kind_of_its_hook() -> None:
    book = HookBook()
    book.attached(2, "eth0", HookKind.TCX)
    book.attached(9, "cali1", HookKind.IFB)
    assert book.kinds() == {"eth0": "tcx", "cali1": "ifb"}
    assert book.troubles() == []


def test_a_device_that_refuses_is_a_trouble_until_it_takes_us_or_is_gone() -> None:
    book = HookBook()
    assert book.refuse(2, "eth0", "no room")
    assert not book.refuse(2, "eth0", "no room"), "told once in the log"
    book.refuse(3, "eth1", "no room")
    assert book.troubles() == ["cannot attach to eth0: no room", "cannot attach to eth1: no room"]
    book.attached(2, "eth0", HookKind.CLSACT)
    book.keep({2})
    assert book.troubles() == []
    assert book.kinds() == {"eth0": "clsact"}


def test_a_device_that_refuses_after_it_took_us_shows_no_hook() -> None:
    book = HookBook()
    book.attached(2, "eth0", HookKind.CLSACT)
    book.refuse(2, "eth0", "no room")
    assert book.kinds() == {}


def test_w13_programs_of_others_before_ours_are_a_trouble_while_they_are() -> None:
    book = HookBook()
    first = Attachment("ingress", HookKind.TCX)
    book.look(2, "eth0", (first, Attachment("egress", HookKind.TCX, overtaken_by=2)))
    assert book.troubles() == ["eth0: programs of others run before ours (egress by 2)"]
    book.look(2, "eth0", (first,))
    assert book.troubles() == []
    book.look(2, "eth0", (Attachment("egress", HookKind.TCX, overtaken_by=2),))
    book.keep(())
    assert book.troubles() == []


def test_what_was_there_before_us_is_not_waited_for() -> None:
    assert Newcomers().settled({1, 2}, (), now=100) == {1, 2}


def test_w13_a_new_device_is_left_to_its_cni_until_its_pod_is_known_or_some_time_has_passed() -> None:
    newcomers = Newcomers()
    newcomers.settled({1}, (), now=100)
    assert newcomers.settled({1, 2, 3}, {3}, now=101) == {1, 3}
    assert newcomers.settled({1, 2, 3}, (), now=101 + SETTLE_S - 0.1) == {1}
    assert newcomers.settled({1, 2, 3}, (), now=101 + SETTLE_S) == {1, 2, 3}


def test_an_index_that_comes_back_is_new_again() -> None:
    newcomers = Newcomers()
    newcomers.settled({1}, (), now=100)
    assert newcomers.settled((), (), now=101) == set()
    assert newcomers.settled({1}, (), now=102) == set()
