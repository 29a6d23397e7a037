"""A graph's kernels find their operators in an eager run of the same step."""

from __future__ import annotations

import pytest

from workbench.telemetry.pairing import pair
from workbench.telemetry.reduction import Key, Raw

MODULES = {0: (0, "layers.0.q_proj"), 1: (1, "layers.1.q_proj")}


def host(name: str, start: float, duration: float, correlation: int = 0) -> Raw:
    return Raw(name, start, duration, False, 1, correlation)


def device(name: str, start: float, duration: float, correlation: int) -> Raw:
    return Raw(name, start, duration, True, 9, correlation)


EAGER = [
    host("workbench.module.0", 0, 4), host("aten::mm", 1, 2), host("cudaLaunchKernel", 1.5, 0.1, 1),
    host("workbench.module.1", 5, 4), host("aten::mm", 6, 2), host("cudaLaunchKernel", 6.5, 0.1, 2),
    host("aten::argmax", 10, 1), host("cudaLaunchKernel", 10.2, 0.1, 3),
    device("gemm", 2, 1.0, 1), device("gemm", 7, 1.0, 2), device("reduce", 11, 0.5, 3)]


def test_the_same_kernels_in_the_same_order_get_their_layers() -> None:
    graph = [host("cudaGraphLaunch", 0, 0.1, 77), device("gemm", 0.2, 0.3, 77),
             device("gemm", 0.5, 0.4, 77), device("reduce", 1.0, 0.1, 77)]
    found = pair(graph, EAGER, MODULES)
    rows = found.captured.rows
    assert found.share == 1.0
    assert rows[Key(0, "layers.0.q_proj", "gemm", "kernel", "gpu", "aten::mm")].total_s == pytest.approx(0.3)
    assert rows[Key(1, "layers.1.q_proj", "gemm", "kernel", "gpu", "aten::mm")].total_s == pytest.approx(0.4)
    assert rows[Key(-1, "", "reduce", "kernel", "gpu", "aten::argmax")].calls == 1
    assert found.captured.wall_s == pytest.approx(1.1)
    assert found.captured.gap_s == pytest.approx(0.3)


def test_a_kernel_that_only_the_graph_runs_stays_unattributed_and_is_counted() -> None:
    graph = [device("gemm", 0.2, 0.3, 77), device("memset", 0.5, 0.1, 77), device("gemm", 0.6, 0.4, 77)]
    found = pair(graph, EAGER, MODULES)
    assert (found.matched, found.kernels) == (2, 3)
    assert found.captured.rows[Key(-1, "", "memset", "kernel", "gpu", "")].calls == 1
    assert found.captured.rows[Key(1, "layers.1.q_proj", "gemm", "kernel", "gpu", "aten::mm")].calls == 1
    assert pair([], EAGER, MODULES).share == 0.0
