# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`policy_bench exported`: the table says how each file runs, and equals a copy of the file for each robot."""

import json
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from policy_node_bench import cli as bench


class Keeper(nn.Module):
    """Keeps a number for one robot."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.head(x) * self.calls


def test_the_table_shows_how_each_file_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["action"])],
        "policy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info("action", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(np.eye(3, 2, dtype=np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "a.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Keeper().eval()).save(str(folder / "b.pt"))
    (folder / "c.pt").write_bytes(b"PK" + bytes(20))
    threads = torch.get_num_threads()
    try:
        arguments = ["exported", str(folder), "--robots", "5", "--json", str(tmp_path / "figures.json")]
        assert bench.main([*arguments, "--markdown", str(tmp_path / "table.md")]) == 0
    finally:
        torch.set_num_threads(threads)
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert rows[0]["how"] == "one batch, opened" and rows[0]["error"] < 1e-6
    assert rows[1]["how"] == "robot after robot: it keeps 'calls' for one robot" and rows[1]["error"] < 1e-6
    assert rows[1]["observations"] == {"observation": [3]}
    assert "is no TorchScript file" in rows[2]["refused"]
    table = (tmp_path / "table.md").read_text().splitlines()
    assert table[0].startswith("| file | format | how it runs | error | 5 robots one by one | in one batch |")
    assert len(table) == 5


def test_a_folder_without_policies_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["exported", str(tmp_path)]) == 1
    assert "has no file with the suffix .onnx" in capsys.readouterr().out
