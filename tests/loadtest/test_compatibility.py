"""The table of what holds beside which CNI comes out of what tests said, and hides nothing."""

from pathlib import Path

import pytest

from loadtest.compatibility import BEGIN, END, TWO_SEGMENTS, Outcome, main, read_outcomes, replaced, table

RESULTS = """<testsuites><testsuite>
<testcase classname="tests.cluster.test_cni" name="test_pods_reach_each_other[flannel-vxlan-nftables]"/>
<testcase classname="tests.cluster.test_cni" name="test_pods_reach_each_other[kube-router-iptables]">
  <failure message="AssertionError: no answer | at all&#10;and more">trace</failure></testcase>
<testcase classname="tests.cluster.test_cni" name="test_node_port[kube-router-iptables-Cluster]"/>
<testcase classname="tests.cluster.test_cni" name="test_node_port[kube-router-iptables-Local]">
  <error message="RuntimeError: not up"/></testcase>
<testcase classname="tests.cluster.test_cni" name="test_pods_reach_each_other[kube-router-none]">
  <skipped message="this kernel has no IPVS"/></testcase>
<testcase classname="tests.cluster.test_segments" name="test_pods_reach_each_other"/>
<testcase classname="tests.cluster.test_down" name="test_of_something_else"/>
</testsuite></testsuites>"""


def test_each_combination_is_a_column_and_each_claim_a_row_with_the_causes_below() -> None:
    lines = table(read_outcomes(RESULTS)).splitlines()
    assert lines == [
        f"|  | flannel-vxlan, nftables | kube-router, iptables | kube-router, none | {TWO_SEGMENTS} |",
        "| --- | --- | --- | --- | --- |",
        "| pods reach each other | holds | **fails** (1) | not run (2) | holds |",
        "| node port | - | **fails** (3) | - | - |",
        "",
        "1. AssertionError: no answer / at all",
        "2. this kernel has no IPVS",
        "3. RuntimeError: not up",
    ]


def test_where_all_holds_there_are_no_notes() -> None:
    assert table([Outcome("a claim", "bridge, iptables")]).splitlines()[2:] == ["| a claim | holds |"]


def test_the_page_keeps_what_people_wrote_around_it(tmp_path: Path) -> None:
    page, results = tmp_path / "page.md", tmp_path / "results.xml"
    page.write_text(f"before\n{BEGIN}\nformer\n{END}\nafter\n")
    results.write_text(RESULTS)
    main([str(results), str(page)])
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n\nLinux ")
    assert text.endswith(f"3. RuntimeError: not up\n\n{END}\nafter\n")
    assert "former" not in text


def test_a_page_without_its_marks_is_left_alone() -> None:
    with pytest.raises(ValueError, match="matrix: begin"):
        replaced("nothing", "table")
