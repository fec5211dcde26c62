import json
import subprocess

import pytest

from service.lab.client import ask_tcp, find_call, new_word
from service.lab.lab import Lab
from service.lab.namespace import inside, run
from service.lab.outside import read_calls
from service.lab.site import set_port_state
from service.lab.witness import wait_for_calls

pytestmark = pytest.mark.root


def test_one_shot_calls_print_what_the_outside_saw(site: Lab) -> None:
    pod = site.pod("carol/other-worker1")
    for proto in ("tcp", "udp"):
        source, port = run(site.client_command(pod, proto, "8.8.8.8")).split()
        assert source == "192.168.1.21"
        last = read_calls(site.outside_log)[-1]
        assert (last["proto"], last["source"], last["source_port"]) == (proto, source, int(port))
        assert last["destination"] == "8.8.8.8"


def test_a_ping_is_found_in_the_outside_log_by_its_word(site: Lab) -> None:
    pod = site.pod("paul/frontend-control1")
    printed = run(site.client_command(pod, "ping", "9.9.9.9", "--log", str(site.outside_log)))
    assert printed.split()[0] == "192.168.1.11"
    assert run(site.client_command(pod, "ping", "9.9.9.9")).startswith("answered in")


def test_a_word_that_never_came_is_not_found(site: Lab) -> None:
    assert find_call(site.outside_log, new_word(), timeout_s=0.05) is None


def test_any_address_of_the_outside_networks_answers_as_itself(site: Lab) -> None:
    pod = site.pod("alice/frontend-control1")
    assert inside(pod.netns, lambda: ask_tcp("8.8.8.200").source) == "192.168.1.11"
    assert run(site.client_command(pod, "udp", "9.9.9.77")).startswith("192.168.1.11 ")


def test_curl_gets_an_answer(site: Lab) -> None:
    printed = run(site.enter("alice/frontend-worker1", "curl", "-s", "-m", "3", "http://8.8.8.8:8080/"))
    assert printed.startswith("192.168.1.21 ")


def test_no_answer_is_exit_status_1(site: Lab) -> None:
    pod = site.pod("alice/frontend-worker1")
    command = site.client_command(pod, "udp", "8.8.8.8", "--port", "9", "--timeout", "0.5")
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert "no answer from 8.8.8.8" in done.stderr


@pytest.mark.parametrize("proto", ["udp", "tcp"])
def test_a_stream_measures_the_gap_of_a_cut(site: Lab, proto: str) -> None:
    pod = site.pod("alice/frontend-worker2")
    command = site.client_command(pod, "stream", "8.8.8.8", "--proto", proto, "--interval", "5")
    port = site.node("worker2").port(0)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as stream:
        try:
            before = len(read_calls(site.outside_log))
            while len(read_calls(site.outside_log)) < before + 20:
                assert stream.poll() is None
            set_port_state(site.plan, port, forwarding=False)
            # The cut lasts for as long as this other pod's call takes to fail.
            other = site.client_command(site.pod("carol/other-worker2"), "udp", "8.8.8.8", "--timeout", "0.3")
            assert subprocess.run(other, capture_output=True, timeout=20, check=False).returncode == 1
        finally:
            set_port_state(site.plan, port, forwarding=True)
        wait_for_calls(site, proto, "192.168.1.22", 20, timeout_s=10)
        stream.terminate()
        report = json.loads(stream.communicate(timeout=20)[0])
    assert report["gap_max_ms"] >= 300
    assert report["gap_until_ns"] - report["gap_from_ns"] == pytest.approx(report["gap_max_ms"] * 1e6, rel=1e-3)
    assert list(report["sources"]) == ["192.168.1.22"]
    if proto == "tcp":
        # What was lost came again on the same connection.
        assert (report["lost"], report["broken"]) == (0, "")
    else:
        assert report["lost"] > 20
