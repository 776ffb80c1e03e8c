# SPDX-License-Identifier: Apache-2.0
"""Models as ONNX graphs: the same logits in onnxruntime, bit by bit."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest

from hiddenfold.gen.onnx_graph import onnx_model
from hiddenfold.sw.cli import main
from hiddenfold.verif.golden.model import Golden
from hiddenfold.verif.golden.random_networks import Limits, random_model


def logits(graph: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"image": images})[0]


@pytest.mark.parametrize("seed", range(12))
def test_random_networks(seed):
    """All operations, bit widths, strides, residuals, folded blocks, partly frozen masks."""
    model = random_model(seed, Limits(max_macs=300_000, frozen=True))
    images = np.random.default_rng(seed).integers(0, 256, (3, *model.image, 3), dtype=np.uint8)
    images[0] = 255
    found = logits(onnx_model(model), images)
    assert found.dtype == np.int64
    assert np.array_equal(found, Golden(model).run(images))


def test_command(capsys, tmp_path, tiny_hfn):
    path = tmp_path / "tiny.onnx"
    assert main(["onnx", str(tiny_hfn), "-o", str(path), "--check", "4", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data == {
        "onnx": str(path),
        "bytes": path.stat().st_size,
        "images": 4,
        "mismatches": 0,
    }
    graph = onnx.load(path)
    assert {item.key for item in graph.metadata_props} == {"dataset", "classes"}
    assert [item.version for item in graph.opset_import] == [13]


def test_a_difference_is_found(capsys, monkeypatch, tmp_path, tiny_hfn):
    right = Golden.run
    monkeypatch.setattr(Golden, "run", lambda self, images: right(self, images) + 1)
    arguments = ["onnx", str(tiny_hfn), "-o", str(tmp_path / "tiny.onnx"), "--check", "2"]
    assert main(arguments) == 1
    assert "2 differ from the golden model" in capsys.readouterr().out
