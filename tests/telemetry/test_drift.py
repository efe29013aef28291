"""Drift scores against golden values of other tools, scipy, and their own bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from pipelines.build import calibration, reference_profile
from server.telemetry.drift import measures, scores
from server.telemetry.drift.profile import FeatureReference, Floats
from server.telemetry.record import FeatureSpec
from tests.support import peers
from tests.support.telemetry_bench import cells

TIGHT = 1e-9

I = np.arange(2000)  # noqa: E741
J = np.arange(1500)
REF = ((I * 7919) % 2003) / 2003
CUR = (((J * 104729) % 1511) / 1511) ** 0.9 * 1.05
CREF = np.array([800, 600, 400, 200])
CCUR = np.array([450, 450, 450, 150])


def feature(values: NDArray[np.floating], kind: str = "numeric") -> FeatureReference:
    spec = FeatureSpec("x", "request", kind, "", tuple("abcd") if kind == "categorical" else ())
    built = reference_profile.build(values[:, None], [spec])["features"][0]
    return FeatureReference(
        spec,
        np.array(built["edges"]),
        np.array(built["counts"]),
        np.array(built["groups"]),
        discrete=built["discrete"],
    )


def counted(ref: FeatureReference, values: NDArray[np.floating]) -> NDArray[np.int64]:
    return np.bincount(cells(ref, values.astype(np.float64)), minlength=len(ref.counts))


def test_the_categories_are_the_golden_ones() -> None:
    ref = np.array(list("aaaabbbccd"))[(I * 7919) % 10]
    cur = np.array(list("aaabbbcccd"))[(J * 104729) % 10]
    assert [int((ref == c).sum()) for c in "abcd"] == CREF.tolist()
    assert [int((cur == c).sum()) for c in "abcd"] == CCUR.tolist()


@pytest.mark.parametrize(
    ("found", "golden"),
    [
        (peers.ks_of_samples(REF, CUR), 0.0633333333333333),
        (
            measures.ks_pvalue(np.array(0.0633333333333333), np.array(2000.0), np.array(1500.0)),
            0.0019723646821124,
        ),
        (peers.ks_exact_pvalue(0.0633333333333333, 2000, 1500), 0.00198381663606943),
        (peers.wasserstein(REF, CUR), 0.0519314186518114),
        (peers.wasserstein(REF, CUR) / REF.std(), 0.180031745520043),
        (peers.evidently_psi(REF, CUR), 0.0680278927062771),
        (peers.evidently_kl(REF, CUR), 0.0295611161796235),
        (peers.evidently_js(REF, CUR), 0.0906092563045928),
        (peers.evidently_hellinger(REF, CUR), 0.0913953596086173),
        (peers.nannyml_js(REF, CUR), 0.169764138910185),
        (peers.nannyml_hellinger(REF, CUR), 0.167813256529488),
        (measures.js(CREF / 2000, CCUR / 1500, base=np.e), 0.0928307865876831),
        (measures.js(CREF / 2000, CCUR / 1500), 0.111501137995739),
        (measures.kl(CREF / 2000, CCUR / 1500), 0.0339798073590796),
        (measures.kl(CCUR / 1500, CREF / 2000), 0.035334910696915),
        (measures.psi(CREF / 2000, CCUR / 1500), 0.0693147180559945),
        (measures.chi2_pvalue(CCUR, CREF), 8.31839111446418e-13),
        (measures.linf(CCUR, CREF), 0.1),
    ],
)
def test_golden_values(found: float, golden: float) -> None:
    assert abs(float(found) - golden) < TIGHT
    assert float(found) == pytest.approx(golden, rel=1e-6)


def test_the_ks_law_agrees_with_scipy_where_it_decides() -> None:
    for size, close in ((320, 0.05), (1000, 0.01), (5000, 0.01), (100_000, 0.01)):
        for z in (0.8, 1.2, 1.5, 2.0, 2.4):
            d, rows = np.array([z / size**0.5]), np.array([2.0 * size])
            golden = stats.kstwo.sf(d[0], size)
            ours = measures.ks_pvalue(d, rows, rows)[0]
            exact = golden < measures.EXACT_BELOW and size <= measures.EXACT_ROWS
            assert ours == pytest.approx(golden, rel=1e-7 if exact else close)
        assert measures.ks_pvalue(np.array([0.0]), rows, rows)[0] > 0.99


def test_chi_squared_agrees_with_scipy_where_nothing_is_rare() -> None:
    r = np.random.default_rng(5)
    for _ in range(20):
        a, b = r.integers(20, 400, 9), r.integers(20, 400, 9)
        assert measures.chi2_pvalue(a, b) == pytest.approx(
            stats.chi2_contingency(np.array([a, b]), correction=False).pvalue, rel=1e-9, abs=1e-300
        )


def test_one_row_of_a_new_category_is_no_alarm() -> None:
    assert measures.chi2_pvalue(np.array([500, 499, 1]), np.array([5000, 5000, 0])) > 0.5


def test_binned_d_never_exceeds_the_exact_one() -> None:
    r = np.random.default_rng(1)
    ref = feature(r.normal(size=5000).astype(np.float32))
    base = r.normal(size=5000).astype(np.float32)
    ref = feature(base)
    for shift in (0.0, 0.1, 0.4):
        state = (r.normal(size=800) + shift).astype(np.float32)
        exact = stats.ks_2samp(base, state).statistic
        binned = measures.ks_statistic(counted(ref, state), ref.counts)
        assert binned <= exact + 1e-12
        assert binned > exact - 0.02


def test_known_shifts_give_the_documented_scores() -> None:
    grid = stats.norm.ppf((np.arange(50_000) + 0.5) / 50_000)
    ref = feature(grid)
    for shift, ks, kl in ((0.1, 0.04, 0.005), (0.3, 0.12, 0.045), (0.55, 0.217, 0.15)):
        found = scores.compare(ref, counted(ref, grid + shift), ref.counts)
        assert found.ks[0] == pytest.approx(ks, abs=0.003)
        assert found.kl[0] == pytest.approx(kl, rel=0.15)


def test_expected_kl_is_what_simulation_gives() -> None:
    r = np.random.default_rng(2)
    base = r.normal(size=20_000)
    ref = feature(base)
    state = np.stack([counted(ref, r.normal(size=500)) for _ in range(200)])
    found = scores.compare(ref, state, ref.counts, deff=1.0, baseline_deff=1.0)
    assert found.kl.mean() == pytest.approx(found.expected_kl.mean(), rel=0.15)
    assert found.psi.mean() == pytest.approx(2 * found.expected_kl.mean(), rel=0.15)
    assert (found.p < 0.05).mean() < 0.1


def test_bursts_are_significant_only_when_the_design_effect_is_ignored() -> None:
    r = np.random.default_rng(7)
    ref = feature(r.normal(size=20_000))
    state = np.stack([counted(ref, np.repeat(r.normal(size=100), 10)) for _ in range(200)])
    ignored = scores.compare(ref, state, ref.counts, deff=1.0, baseline_deff=1.0)
    heeded = scores.compare(ref, state, ref.counts, deff=10.0, baseline_deff=1.0)
    assert (ignored.p < 0.05).mean() > 0.7
    assert (heeded.p < 0.05).mean() < 0.1
    assert heeded.n_effective[0] == pytest.approx(100)


def test_too_few_rows_are_insufficient_and_never_a_level() -> None:
    ref = feature(np.random.default_rng(0).normal(size=5000))
    far = counted(ref, np.full(319, 9.0))
    found = scores.compare(ref, far, ref.counts, deff=1.0)
    assert not found.sufficient[0]
    assert scores.levels_of(found, np.array([0.0]))[0] == 0
    enough = scores.compare(ref, far + far, ref.counts, deff=1.0)
    assert scores.LEVELS[scores.levels_of(enough, np.array([0.0]))[0]] == "critical"


def test_few_rows_show_what_is_beyond_doubt_and_when_it_is_over() -> None:
    r = np.random.default_rng(0)
    ref = feature(r.normal(size=5000))

    def judged(values: Floats, q: float = 0.0) -> tuple[bool, bool]:
        found = scores.compare(ref, counted(ref, values), ref.counts, deff=1.0)
        large, over = scores.levels_of_few(found, np.array([q]))
        return bool(large[0]), bool(over[0])

    assert judged(r.normal(1.0, size=100)) == (True, False)
    assert judged(r.normal(1.0, size=100), q=1e-4) == (False, False)
    assert judged(r.normal(1.0, size=49)) == (False, False)
    assert judged(r.normal(0.2, size=319)) == (False, False)  # large enough only for more rows
    assert judged(r.normal(size=100)) == (False, True)
    assert judged(r.normal(size=1000)) == (False, False)  # for `evaluation`


def test_significance_alone_is_no_alarm() -> None:
    grid = stats.norm.ppf((np.arange(200_000) + 0.5) / 200_000)
    ref = feature(grid[::4])
    found = scores.compare(ref, counted(ref, grid + 0.05), ref.counts)
    assert found.p[0] < 1e-9
    assert scores.levels_of(found, found.p)[0] == 0


@pytest.mark.parametrize("cells", [[0, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 10**9]])
def test_every_score_is_finite_for_any_counts(cells: list[int]) -> None:
    ref = feature(np.tile(np.arange(4.0), 500), "categorical")
    found = scores.compare(ref, np.array(cells), ref.counts)
    for name in ("ks", "p", "kl", "js", "psi", "chi2_p", "expected_kl", "excess_kl"):
        assert np.isfinite(getattr(found, name)).all(), name
    backwards = scores.compare(ref, ref.counts, np.array(cells))
    assert np.isfinite(backwards.kl).all()


def test_benjamini_hochberg_agrees_with_scipy() -> None:
    p = np.random.default_rng(4).random(50) ** 2
    assert scores.benjamini_hochberg(p) == pytest.approx(stats.false_discovery_control(p))
    assert scores.benjamini_hochberg(np.zeros(0)).tolist() == []


counts = st.lists(st.integers(0, 10_000), min_size=5, max_size=5).map(np.array)


@settings(deadline=None, max_examples=150)
@given(counts, counts)
def test_scores_keep_their_bounds(a: NDArray[np.int64], b: NDArray[np.int64]) -> None:
    ref = feature(np.tile(np.arange(4.0), 500), "categorical")
    there, back = scores.compare(ref, a, b), scores.compare(ref, b, a)
    assert 0 <= there.ks[0] <= 1 and 0 <= there.js[0] <= 1 + 1e-12
    assert 0 <= there.p[0] <= 1 and there.kl[0] >= -1e-12 and there.psi[0] >= -1e-12
    assert there.js[0] == pytest.approx(back.js[0]) and there.ks[0] == back.ks[0]
    assert there.psi[0] == pytest.approx(there.kl[0] + back.kl[0], abs=1e-9) or not (
        a.sum() and b.sum()
    )


def test_the_builder_and_the_server_score_alike() -> None:
    r = np.random.default_rng(6)
    a, b = r.integers(1, 200, (3, 20)), r.integers(1, 200, (3, 20))
    assert calibration._ks(a, b) == pytest.approx(measures.ks_statistic(a, b))
    assert calibration._kl(a, b) == pytest.approx(
        measures.kl(measures.smoothed(a), measures.smoothed(b))
    )
