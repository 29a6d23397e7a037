"""Every lossless method keeps the target's own text: 200 prompts of eight kinds dealt out among them.

Each method gets its own share, so that all 200 are decoded; ``benchmarks/decoding/identity.py`` gives all of
them to everyone. Where a kernel rounds by the number of rows, a text may leave plain decoding's at a numeric
near-tie only; where it does not (the native executor), not at all.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from workbench.runtime import load
from workbench.settings import Settings
from workbench.speculation import prompts
from workbench.speculation.identity import Identity, lossless

METHODS = lossless()
PROMPTS = prompts.generated(200)
#: (stored weights, temperature, of its share a method decodes so much). Modules in float32 are slow.
CASES = [("bf16", 0.0, 1.0), ("bf16", 0.8, 0.3), ("fp32", 0.0, 0.2)]


@pytest.fixture(scope="module", params=CASES, ids=lambda c: f"{c[0]}-{c[1]:g}")
def identity(request: pytest.FixtureRequest) -> Iterator[tuple[Identity, float]]:
    weights, temperature, share = request.param
    settings = Settings().with_({
        "weights": weights, "sampling.temperature": temperature, "seed": 3, "limits.max_new_tokens": 8,
        "telemetry.preset": "off", "telemetry.power": False})
    model = load(settings, lambda event: None)
    yield Identity(model, settings), share
    model.close()


@pytest.mark.parametrize("method", METHODS)
def test_the_text_is_plain_decodings(identity: tuple[Identity, float], method: str) -> None:
    compared, share = identity
    mine = PROMPTS[METHODS.index(method)::len(METHODS)]
    found = compared.run(method, mine[:max(3, int(len(mine) * share))])
    if found.skipped:
        pytest.skip(found.skipped)
    assert found.bugs == 0, found
    if compared.model.forward.executor is not None:
        assert found.same == found.prompts, found
    assert found.same >= 0.6 * found.prompts  # near-ties are rare, or the check would be blind


def test_all_of_them_are_dealt_out() -> None:
    assert len({p.id for i in range(len(METHODS)) for p in PROMPTS[i::len(METHODS)]}) == 200
    assert {"draft_model", "prompt_lookup", "token_recycling", "jacobi", "adaptive_tables"} <= set(METHODS)


def test_most_methods_really_draft(identity: tuple[Identity, float]) -> None:
    """A method that proposes nothing would pass everything."""
    compared, _ = identity
    for method in ("draft_model", "token_recycling", "jacobi"):
        found = compared.run(method, PROMPTS[:2])
        assert found.drafted > 0
        assert found.accepted > 0 or method == "jacobi"
