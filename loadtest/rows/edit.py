"""Row `edit`: what an edit of a policy costs the flows that it does not concern.

A pod asks the outside server at a steady pace on one socket, and has a download running. The policy gets and loses a
destination that nobody talks to, and another policy of the same pods comes and goes; each of them is in force before
the next one.
"""

import time
from collections.abc import Callable
from typing import Any

from loadtest import gateway, peer
from loadtest.gateway import OUTSIDE, SOURCE_IP, Report
from loadtest.goal import Figure, Row, at_least, at_most
from loadtest.rows.options import DatapathOptions
from loadtest.station import Station
from loadtest.variant import Site, gateway_site
from service.lab.manifest import apply_manifest
from service.lab.plan import UDP_PORT
from service.lab.status import wait_for
from service.model.errors import TransientError

PORT = 9030
INTERVAL_NS = 1_000_000
LEAD_S = 1.0
UNRELATED = "203.0.113.128/25"
BASE = (f"{OUTSIDE}/32", peer.SERVER_NETWORK)
OTHER_FILE, OTHER_NAME = "other.yaml", "other"
_IN_FORCE_S = 20.0
_STILL_S = 0.5


def measure_edit(options: DatapathOptions, report: Report) -> Row:
    """As many edits as were asked for, of each kind in turn."""
    with gateway_site(f"{options.name}g", report) as pair:
        found = watch(pair.on_veth, lambda: _edit_again_and_again(pair.on_veth, options.sizes.edits, report))
    streamed, taken = found["stream"], found["download"]
    goes_on = not taken["ended"] and taken["bytes"] > 0
    edits = options.sizes.edits
    return Row(
        "edit",
        [
            Figure(f"{edits} edits of policies: packets lost of an open flow", streamed["lost"], "", 0, at_most(0)),
            Figure(f"{edits} edits of policies: downloads that go on, of 1", int(goes_on), "", 0, at_least(1)),
            Figure("longest pause of that download", taken["longest_pause_ns"] / 1e6, "ms", 1),
        ],
        found,
    )


def watch(site: Site, happen: Callable[[], None]) -> dict[str, Any]:
    """What becomes of a pod's steady requests and of its download while something happens."""
    with (
        Station(site.pod.netns) as asking,
        Station(site.pod.netns) as taking,
        Station(site.lab.plan.router) as server,
    ):
        server.tell("download_serve", port=PORT)
        server.answer()
        taking.tell("download", destination=peer.SERVER, port=PORT)
        taking.answer()
        asking.tell("stream", destination=OUTSIDE, port=UDP_PORT, interval_ns=INTERVAL_NS)
        asking.answer()
        time.sleep(LEAD_S)
        happen()
        time.sleep(LEAD_S)
        asking.end()
        taking.end()
        streamed, taken = asking.answer(), taking.answer()
        served = server.answer()
    sources = {source for _, _, source in streamed["answers"]} | {served["source"]}
    if sources != {SOURCE_IP}:
        raise TransientError(f"seen outside as {', '.join(sorted(sources))}")
    sent = len(streamed["sent"])
    return {"stream": {"sent": sent, "lost": sent - len(streamed["answers"])}, "download": taken}


def _edit_again_and_again(site: Site, edits: int, report: Report) -> None:
    lab = site.lab
    other = lab.manifests / OTHER_FILE
    for number in range(edits):
        report(f"edit {number + 1}")
        match number % 4:
            case 0:
                gateway.apply_policy(lab, (*BASE, UNRELATED))
            case 1:
                gateway.apply_policy(lab, BASE)
            case 2:
                apply_manifest(lab.manifests, OTHER_FILE, [other_policy()])
                _wait_for_policies(site, 2)
            case 3:
                other.unlink()
                _wait_for_policies(site, 1)
        time.sleep(_STILL_S)


def _wait_for_policies(site: Site, count: int) -> None:
    def are_known() -> bool:
        return len(gateway.status(site.lab, site.pod.node)["policies"]) == count

    wait_for(f"{count} policies to be known", are_known, timeout_s=_IN_FORCE_S)


def other_policy() -> dict[str, Any]:
    """Of the same pods, with another floating IP, for a destination that nobody talks to."""
    (_, policy) = gateway.manifests((UNRELATED,))
    return policy | {
        "metadata": {"name": OTHER_NAME},
        "spec": policy["spec"] | {"egressSourceIP": gateway.FLOATING_IPS[1]},
    }
