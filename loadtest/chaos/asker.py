"""A host of the segment that asks by ARP who has each floating IP, again and again: a second speaker answers too.

Traffic alone shows a second speaker only where somebody still sends to it. A question is heard by every node, so a
fence that stays open is seen on the wire within one beat. Only the answers matter, and the captures have them.
"""

import argparse
import contextlib
import socket
import struct
import time

BEAT_S = 0.05
"""Six beats are one lease of the default profile."""


def questions_for(mac: bytes, own: str, addresses: tuple[str, ...]) -> list[bytes]:
    """One frame for each address. From the host's own address: a probe without one would be somebody's claim."""
    head = b"\xff" * 6 + mac + struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, 1) + mac + socket.inet_aton(own)
    return [head + bytes(6) + socket.inet_aton(address) for address in addresses]


def ask_for_ever(device: str, own: str, addresses: tuple[str, ...]) -> None:
    """Ask at each beat until killed; a device that is down is waited for."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as asker:
        asker.bind((device, 0))
        questions = questions_for(asker.getsockname()[4], own, addresses)
        while True:
            for question in questions:
                with contextlib.suppress(OSError):
                    asker.send(question)
            time.sleep(BEAT_S)


def main() -> None:
    """`python -m loadtest.chaos.asker`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", required=True)
    parser.add_argument("--own", required=True, help="address of this host on the device")
    parser.add_argument("addresses", nargs="+")
    options = parser.parse_args()
    ask_for_ever(options.device, options.own, tuple(options.addresses))


if __name__ == "__main__":
    main()
