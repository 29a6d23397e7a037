"""Every tutorial runs from top to bottom on the bundled model, in a fresh kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from workbench import zoo

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

#: What a tutorial must have printed at its end.
WANTED = {
    "05_decoding_in_parallel.ipynb": ("diffusion_freedave", "shuffle at once", "you guessed"),
    "06_when_does_speculation_pay.ipynb": ("tokens are the plain target's own", "must be", "estimated"),
    "07_trees.ipynb": ("The texts are identical.", "The text is identical.", "auto:"),
    "01_first_run.ipynb": ("The texts are identical.",),  # speculation must not change the text
    "03_launch_bound_or_memory_bound.ipynb": ("host   is the limit", "device-bound from"),
    "10_four_bits_five_ways.ipynb": ("ue5m3", "The model's own ranking:"),
    "02_reading_a_decode_step.ipynb": ("The first cause:", "sum", "Peak by tier and use"),
    "08_why_is_my_quantized_model_slower.ipynb": ("without a kernel, one row:", "turns at about"),
    "09_gptq_against_rounding.ipynb": ("GPTQ's output is closer in", "GPTQ closes"),
}


@pytest.fixture
def executed(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
             ) -> Any:
    """The notebook with its outputs; an error in a cell fails the test with that cell's traceback."""
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    book = nbformat.read(request.param, as_version=4)
    client = nbclient.NotebookClient(book, timeout=300, kernel_name="python3",
                                     resources={"metadata": {"path": str(tmp_path)}})
    return client.execute()


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(not zoo.names(), reason="no bundled model")
@pytest.mark.parametrize("executed", NOTEBOOKS, ids=lambda p: p.name, indirect=True)
def test_runs_from_top_to_bottom(executed: Any, request: pytest.FixtureRequest) -> None:
    outputs = [o for c in executed.cells if c.cell_type == "code" for o in c.outputs]
    printed = "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stdout")
    assert "Traceback" not in printed
    assert printed.strip(), "it printed nothing"
    name = request.node.callspec.id
    for wanted in WANTED.get(name, ()):
        assert wanted in printed, f"{name} did not print {wanted!r}"
    if "01_first_run" not in request.node.name:
        return
    views = [o.data for o in outputs if "data" in o
             and "application/vnd.jupyter.widget-view+json" in o.data]
    assert views, "the session was not shown"
    assert all('<div class="wb">' in v["text/html"] for v in views), "no static form beside it"
    assert "measured" in printed


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_is_committed_clean(path: Path) -> None:
    """Outputs are one machine's numbers and would be stale in the next commit; pictures are in docs."""
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    for cell in book.cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None
    assert "widgets" not in book.metadata
    assert path.stat().st_size < 64_000


def test_there_is_a_first_one() -> None:
    assert NOTEBOOKS[0].name == "01_first_run.ipynb"
