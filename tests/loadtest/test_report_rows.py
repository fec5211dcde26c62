import io
import json
from pathlib import Path

from rich.console import Console

from loadtest.goal import Figure, Row, at_most
from loadtest.measurement import METRICS, Round
from loadtest.report import environment, write_json
from loadtest.report_rows import datapath_document, print_datapath, print_scale, row_line, scale_document, short
from loadtest.row_table import RowsMeasured
from loadtest.rows.cost import summary
from loadtest.rows.options import DatapathOptions
from loadtest.scale.curve import Curve, Point
from loadtest.scale.options import ScaleOptions
from loadtest.variant import GATEWAY, NFT_MAPS, PLAIN

VARIANTS = (PLAIN, NFT_MAPS, GATEWAY)


def _datapath() -> RowsMeasured[DatapathOptions]:
    rounds: list[Round] = [
        {variant: {metric.key: weight * factor for metric in METRICS} for factor, variant in enumerate(VARIANTS, 1)}
        for weight in (100.0, 300.0)
    ]
    figures = [
        Figure("CPU per packet / nft maps", 0.9304, goal=at_most(0.93)),
        Figure("connections lost", 0, digits=0, goal=at_most(0)),
        Figure("stream", None, note="not in this version"),
        Figure("pause", 12.34, "ms", 1),
    ]
    detail = {"policy": {"groups": {"veth": summary(rounds)}, "rounds": {"veth": rounds}}}
    rows = [Row("cost", figures, detail), Row("flood", error="the server saw 192.168.1.22")]
    return RowsMeasured(DatapathOptions(rounds=2), rows)


def _text(show: object, result: object) -> str:
    file = io.StringIO()
    show(result, environment(), Console(file=file, width=160))  # type: ignore[operator]
    return file.getvalue()


def test_the_datapath_table_has_each_number_beside_its_goal() -> None:
    lines = _text(print_datapath, _datapath()).splitlines()

    def words(title: str) -> str:
        return " ".join(next(line for line in lines if title in line).replace("│", " ").split())

    assert words("/ nft maps") == "cost CPU per packet / nft maps <= 0.93 0.93 MISSED"
    assert words("connections lost") == "cost connections lost <= 0 0 met"
    assert words("stream  ") == "cost stream - - not measured not in this version"
    assert words("pause") == "cost pause - 12.3 ms"


def test_the_medians_of_every_variant_are_below_it_and_it_says_that_the_machine_is_shared() -> None:
    text = _text(print_datapath, _datapath())
    for metric in METRICS:
        assert metric.title in text
    row = next(line for line in text.splitlines() if "CPU per UDP packet" in line)
    assert row.replace("│", " ").split()[-3:] == ["200", "400", "600"]
    assert "others may be using it" in text
    assert "FAILED: flood: the server saw 192.168.1.22" in text


def test_a_row_that_is_done_is_told_in_one_line() -> None:
    done, failed = _datapath().rows
    assert row_line(done) == "cost: 1 MISSED, 1 met, 1 not measured"
    assert row_line(failed) == "flood: FAILED: the server saw 192.168.1.22"


def test_json_of_the_datapath_holds_all_rounds_and_versions_kernel_and_cores(tmp_path: Path) -> None:
    machine = environment()
    write_json(tmp_path / "datapath.json", datapath_document(_datapath(), machine))
    document = json.loads((tmp_path / "datapath.json").read_text())
    assert {"egressgw", "kernel", "cores", "nft", "python", "load_average"} <= set(document["environment"])
    assert [row["row"] for row in document["rows"]] == ["cost", "flood"]
    assert len(document["rows"][0]["detail"]["policy"]["rounds"]["veth"]) == 2
    assert document["options"]["rounds"] == 2


def _scale() -> RowsMeasured[ScaleOptions]:
    curve = Curve("one more pod", "local pods", "ms", (Point(250, 2.0), Point(1000, 8.0), Point(5000, 40.0)))
    figures = [Figure("one more pod, 5,000 local pods", 40.0, "ms", goal=at_most(10))]
    rows = [Row("turn", figures, {"curves": [curve.document()]}), Row("churn", error="worker1 did not come back")]
    return RowsMeasured(ScaleOptions(), rows)


def test_a_curve_is_told_with_its_sizes_what_one_more_costs_and_how_fast_it_grows() -> None:
    lines = _text(print_scale, _scale()).splitlines()
    row = next(line for line in lines if "250 1,000 5,000" in line)
    words = [cell.strip() for cell in row.strip("│").split("│")]
    assert words == ["turn", "one more pod", "local pods", "250 1,000 5,000", "2 8 40", "0.008 ms", "1.00"]
    assert any("<= 10" in line and "40.00 ms" in line and "MISSED" in line for line in lines)
    assert "FAILED: churn: worker1 did not come back" in "\n".join(lines)


def test_json_of_costs_by_size_holds_sizes_and_curves() -> None:
    document = json.loads(json.dumps(scale_document(_scale(), environment())))
    assert document["test"] == "scale"
    assert document["options"]["sizes"]["pods"] == 5000
    assert document["rows"][0]["detail"]["curves"][0]["points"][-1] == [5000, 40.0]


def test_a_number_is_short_and_never_less_than_whole() -> None:
    assert [short(value) for value in (0.00123, 8.0, 40.04, 12345.6, -250)] == ["0.00123", "8", "40", "12,346", "-250"]
