# SPDX-License-Identifier: Apache-2.0
"""Code and functional coverage count what was there, and nothing else."""

from types import SimpleNamespace

import numpy as np
import pytest

from hiddenfold.gen.compile import compile_model
from hiddenfold.gen.target import Target
from hiddenfold.verif.bench.case import HEIGHT, WIDTH, small_model
from hiddenfold.verif.golden.model import Golden
from hiddenfold.verif.signoff.coverage import Point, Waiver, component, load_waivers, read, tally
from hiddenfold.verif.signoff.directed import directed
from hiddenfold.verif.signoff.functional import Collector, all_bins
from hiddenfold.verif.signoff.nets import Nets

TARGET = Target.load("sim-tiny")


def line(page: str, what: str, count: int) -> str:
    fields = {"f": "x.v", "l": "7", "page": page, "o": what, "h": "TOP"}
    return "C '" + "".join(f"\x01{k}\x02{v}" for k, v in fields.items()) + f"' {count}\n"


def test_code_coverage(tmp_path):
    one, two = tmp_path / "1.dat", tmp_path / "2.dat"
    one.write_text(
        "# SystemC::Coverage-3\n"
        + line("v_toggle/hiddenfold.engine.pool", "x[0]:0->1", 0)
        + line("v_toggle/hiddenfold.engine.pool", "x[1]:0->1", 2)
        + line("v_toggle/hiddenfold.engine.pool", "__02412[3]:0->1", 0)
        + line("v_toggle/hiddenfold.engine.pool", "o___05Fpayload__024197__02erow[1]:0->1", 1)
        + line("v_branch/hiddenfold.engine.conv.sums", "if", 0)
        + line("v_line/hiddenfold.engine.conv.sums", "block", 0)
        + line("v_user/hiddenfold", "ignored", 0)
    )
    two.write_text(line("v_toggle/hiddenfold.engine.pool", "x[0]:0->1", 1))
    counts = read([one, two])
    assert counts[Point("toggle", "hiddenfold.engine.pool", "x[0]:0->1")] == 1
    # Names as in the Verilog; nets without one are left out.
    assert counts[Point("toggle", "hiddenfold.engine.pool", "o__payload$197.row[1]:0->1")] == 1
    assert len(counts) == 5
    good = Waiver("branch", r"hiddenfold\.engine\.conv\..*", "if .*", "because")
    idle = Waiver("toggle", ".*", "never", "because")
    components, unused = tally(counts, [good, idle])
    assert unused == [idle]
    assert components["pool"]["toggle"].share == 1
    branch, block = components["conv.sums"]["branch"], components["conv.sums"]["line"]
    assert (branch.total, branch.waived, branch.missed) == (0, 1, [])
    assert (block.total, block.share, len(block.missed)) == (1, 0, 1)


DESIGN = """
module part(input clk, input [1:0] data, output reg [1:0] held, output unread);
  wire same = data[0];
  reg [3:0] store[0:1];
  assign unread = data[0] & data[1];
  always @(posedge clk) held <= {1'b0, same};
endmodule
module hiddenfold(input clk, input [1:0] word, output [1:0] result);
  part unit(.clk(clk), .data(word), .held(result), .unread());
endmodule
"""


def test_each_net_counts_once(tmp_path):
    (tmp_path / "design.v").write_text(DESIGN)
    rise = {
        Point("toggle", module, f"{what}:0->1"): count
        for module, what, count in (
            ("hiddenfold", "word[0]", 0),
            ("hiddenfold.unit", "data[0]", 0),
            ("hiddenfold.unit", "same", 3),
            ("hiddenfold", "result[0]", 0),
            ("hiddenfold.unit", "held[0]", 0),
            # A constant, one that nothing reads, and an element of a memory.
            ("hiddenfold", "result[1]", 0),
            ("hiddenfold.unit", "unread", 1),
            ("hiddenfold.unit", "store[1][2]", 1),
        )
    }
    branch = Point("branch", "hiddenfold.unit", "if 3:1")
    counts, uncounted = Nets.of(tmp_path / "design.v").merged(rise | {branch: 0})
    assert counts == {
        Point("toggle", "hiddenfold", "word[0]:0->1"): 3,
        Point("toggle", "hiddenfold", "result[0]:0->1"): 0,
        branch: 0,
    }
    assert uncounted == 2


def test_directed_networks_fill_bins_that_nothing_else_would():
    seen = []
    for case in directed():
        collector = Collector(TARGET)
        program = compile_model(case.model, TARGET, **case.options)
        images = np.zeros((case.count, *case.model.image, 3), np.uint8)
        result = SimpleNamespace(traces=None, logits=Golden(case.model).trace(images)[-1].values)
        collector.run(program, case.count, result, {})
        seen.append(set(collector.counts))
    everything = set().union(*seen)
    for expected in (
        ("conv: kernel, folding, passes", "7, later iteration, 4"),
        ("conv: kernel, stride, passes", "5, 2, 3"),
        ("conv: folding, cache", "later iteration, not cached, several pixel tiles"),
        ("conv: folding, cache", "outside loops, cached, one pixel tile"),
        ("conv: masks, cache", "1 of 8, cached"),
        ("conv: last group of maps", "short"),
        ("conv: kernel, rows above", "7, 1"),
        ("fence: kind, limit", "saves, 3"),
        ("image: width", "largest"),
    ):
        assert expected in everything & set(all_bins(TARGET)), expected


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("hiddenfold", "hiddenfold"),
        ("hiddenfold.registers", "registers"),
        ("hiddenfold.engine", "engine"),
        ("hiddenfold.engine.pool", "pool"),
        ("hiddenfold.engine.conv.cache$272.tiles", "conv.cache"),
        ("hiddenfold.engine.reader.fifo0", "reader"),
    ],
)
def test_components(module, name):
    assert component(module) == name


def test_waivers_have_reasons():
    assert all(len(waiver.reason) > 20 for waiver in load_waivers())


def test_functional_coverage_of_a_run():
    model = small_model()
    program = compile_model(model, TARGET, trace=True)
    images = np.zeros((1, HEIGHT, WIDTH, 3), np.uint8)
    *layers, logits = Golden(model).trace(images)
    entries = [SimpleNamespace(name=layer.name, data=layer.values[0]) for layer in layers]
    result = SimpleNamespace(traces=[entries], logits=logits.values)
    collector = Collector(TARGET)
    collector.run(program, 1, result, {"stall": 0.5, "read_latency": 3})
    seen = set(collector.counts)
    assert seen & set(all_bins(TARGET)) == seen, "a bin that is not in the plan"
    for expected in (
        ("conv: kernel, folding, passes", "3, first iteration, 2"),
        ("conv: kernel, folding, passes", "3, later iteration, 2"),
        ("conv: kernel, stride, passes", "3, 2, 2"),
        ("conv: output bits, residual", "4, in place"),
        ("loop: iterations", "3 to 7"),
        ("pool: kernel, stride", "3, 2"),
        ("memory: pauses, latency", "0.5, 3"),
        ("run: traced, filled up", "traced, whole batch"),
    ):
        assert expected in seen, expected
    # Three iterations: the body's bins are counted three times, the classifier's once.
    assert collector.counts["opcode", "POOL"] == 1
    assert collector.counts["conv: kernel, folding, passes", "3, later iteration, 2"] == 2
    assert ("opcode", "LOAD") in collector.missing
