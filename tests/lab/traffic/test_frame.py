import io
import struct
from ipaddress import IPv4Address
from pathlib import Path

from service.lab.traffic.frame import ETH_ARP, ETH_IPV4, pack_frame, read_frames, write_header

A, B = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")


def _ipv4(source: str, destination: str, protocol: int, payload: bytes, fragment: int = 0) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, fragment, 64, protocol, 0)
    return head + IPv4Address(source).packed + IPv4Address(destination).packed + payload


def _ethernet(payload: bytes) -> bytes:
    return A + B + struct.pack("!H", ETH_IPV4) + payload


def _pack(data: bytes) -> bytes | None:
    return pack_frame(data, time_ns=7, port_index=0, vxlan_port=9643)


def _through_a_file(tmp_path: Path, *records: bytes | None) -> list:
    file = io.BytesIO()
    write_header(file, ["worker1-0"])
    path = tmp_path / "capture"
    path.write_bytes(file.getvalue() + b"".join(record or b"" for record in records))
    return list(read_frames(path))


def test_a_frame_comes_back_as_it_was_written(tmp_path: Path) -> None:
    data = _ethernet(_ipv4("10.0.0.1", "8.8.8.8", 17, struct.pack("!HHHH", 1000, 53, 8, 0)))
    (frame,) = _through_a_file(tmp_path, _pack(data))
    assert (frame.time_ns, frame.port, frame.destination_mac, frame.source_mac) == (7, "worker1-0", A, B)
    assert (str(frame.source), str(frame.destination)) == ("10.0.0.1", "8.8.8.8")
    assert (frame.protocol, frame.source_port, frame.destination_port) == (17, 1000, 53)
    assert not frame.encapsulated


def test_of_a_vxlan_packet_the_inner_one_is_recorded(tmp_path: Path) -> None:
    inner = _ethernet(_ipv4("10.244.1.10", "8.8.8.8", 6, struct.pack("!HH", 1, 2)))
    outer = _ipv4("192.168.1.21", "192.168.1.22", 17, struct.pack("!HHHHII", 5, 9643, 0, 0, 0, 0) + inner)
    (frame,) = _through_a_file(tmp_path, _pack(_ethernet(outer)))
    assert (str(frame.source), str(frame.destination), frame.encapsulated) == ("10.244.1.10", "8.8.8.8", True)


def test_of_arp_the_sender_and_the_target_are_recorded(tmp_path: Path) -> None:
    sender, target = IPv4Address("192.168.1.100").packed, IPv4Address("192.168.1.1").packed
    data = A + B + struct.pack("!HHHBBH6s4s6s4s", ETH_ARP, 1, ETH_IPV4, 6, 4, 2, B, sender, A, target)
    (frame,) = _through_a_file(tmp_path, _pack(data))
    assert (frame.ethertype, frame.arp_operation) == (ETH_ARP, 2)
    assert (frame.source.packed, frame.destination.packed) == (sender, target)


def test_a_later_fragment_has_no_ports(tmp_path: Path) -> None:
    data = _ethernet(_ipv4("10.0.0.1", "8.8.8.8", 17, bytes.fromhex("0102030405060708"), fragment=5))
    (frame,) = _through_a_file(tmp_path, _pack(data))
    assert (frame.source_port, frame.destination_port) == (0, 0)


def test_other_and_damaged_frames_are_left_out() -> None:
    assert _pack(b"short") is None
    assert _pack(A + B + b"\x86\xdd" + bytes(40)) is None
    assert _pack(_ethernet(bytes(4))) is None
    assert _pack(A + B + b"\x08\x06" + bytes(4)) is None


def test_a_record_still_being_written_is_left_out(tmp_path: Path) -> None:
    record = _pack(_ethernet(_ipv4("10.0.0.1", "8.8.8.8", 1, bytes(8))))
    assert record is not None
    assert len(_through_a_file(tmp_path, record, record[:10])) == 1
