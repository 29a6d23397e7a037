"""Tables of tile shapes: what is picked, and that a broken table is as none."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench.kernels import tuning


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    tuning.table.cache_clear()
    return tmp_path


def test_what_was_written_is_picked_for_rows_up_to_a_power_of_two() -> None:
    key = tuning.key_of(9, 4096, 2048, group=64)
    assert key == tuning.key_of(16, 4096, 2048, group=64) != tuning.key_of(8, 4096, 2048, group=64)
    tuning.write("NVIDIA H200", {"w4a16_gemm": {key: {"BN": 128}}}, {"date": "2026-01-01"})
    assert tuning.pick("w4a16_gemm", key, "NVIDIA H200", {"BM": 16, "BN": 32}) == {"BM": 16, "BN": 128}
    assert tuning.pick("w4a16_gemm", key, "another", {"BM": 16}) == {"BM": 16}


def test_a_broken_table_is_as_none(own: Path) -> None:
    (own / "kernels").mkdir()
    (own / "kernels" / "nvidia-h200.json").write_text("{")
    assert tuning.pick("w4a16_gemm", "m1", "NVIDIA H200", {"BM": 16}) == {"BM": 16}
