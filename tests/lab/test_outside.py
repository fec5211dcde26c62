from pathlib import Path

from service.lab.outside import answer_to, open_log, read_calls


def test_an_answer_is_the_callers_address_and_the_first_word_of_the_request() -> None:
    assert answer_to("192.0.2.1", 1000, b"") == b"192.0.2.1 1000\n"
    assert answer_to("192.0.2.1", 1000, b"\n") == b"192.0.2.1 1000\n"
    assert answer_to("192.0.2.1", 1000, b"17 more\n") == b"192.0.2.1 1000 17\n"


def test_calls_are_read_from_any_point_on_without_a_half_written_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = open_log(path)
    log("udp", "192.0.2.1", 1000, "8.8.8.8", b"word\n")
    start = path.stat().st_size
    log("icmp", "192.0.2.2", 7, "8.8.8.8", b"\xff")
    with path.open("ab") as file:
        file.write(b'{"time_ns": 1')
    assert [call["payload"] for call in read_calls(path)] == ["word", "\ufffd"]
    assert [call["source"] for call in read_calls(path, start)] == ["192.0.2.2"]
