"""Paired tests: exact, on the same images, never pooled over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, product
from math import comb
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmark.errors import BenchError
from benchmark.records import Count, Evaluation, Record, ThreatCounts
from benchmark.tables import exact, make, render
from benchmark.tables.exact import holm, mcnemar, sign_flips
from benchmark.tables.hits import adopt_hits, counted, find_hits, gather, read_hits, strata
from tests.made_records import evaluation, hits, record

# -- McNemar --


@pytest.mark.parametrize(
    ("one", "other", "known"),
    [
        (1, 7, 0.0390625),  # Fagerland et al. 2013, airway hyper-responsiveness: mid-p 0.039
        (0, 0, 1.0),
        (5, 5, 1.0),
        (0, 6, 1 / 64),
        (0, 2000, 0.0),
    ],
)
def test_mid_p_agrees_with_the_textbook(one: int, other: int, known: float) -> None:
    assert mcnemar([(1000, one, other)]) == pytest.approx(known, abs=1e-15)


@given(st.integers(0, 400), st.integers(0, 400))
@settings(max_examples=60)
def test_one_set_of_images_is_scipys_exact_test_less_half_of_what_was_seen(a: int, b: int) -> None:
    if a + b == 0:
        return
    full = stats.binomtest(min(a, b), a + b, 0.5).pvalue
    expected = 1.0 if a == b else full - comb(a + b, a) / 2 ** (a + b)
    assert mcnemar([(999, a, b)]) == pytest.approx(expected, rel=1e-9, abs=1e-300)


small = st.tuples(st.sampled_from([20, 30, 50]), st.integers(0, 2), st.integers(0, 1))


@given(st.lists(small, min_size=1, max_size=3))
@settings(max_examples=40)
def test_several_sets_are_counted_out(strata_: list[tuple[int, int, int]]) -> None:
    """Images on which the models differ are either's with equal odds: all patterns, one by one."""
    steps = [300 // n for n, a, b in strata_ for _ in range(a + b)]
    seen = abs(sum(300 // n * (a - b) for n, a, b in strata_))
    sums = [
        abs(sum(s * w for s, w in zip(signs, steps, strict=True)))
        for signs in product((1, -1), repeat=len(steps))
    ]
    above, equal = sum(s > seen for s in sums), sum(s == seen for s in sums)
    expected = 1.0 if seen == 0 else (above + equal / 2) / len(sums)
    assert mcnemar(strata_) == pytest.approx(expected, rel=1e-9)
    swapped = [(n, b, a) for n, a, b in strata_]
    assert mcnemar(swapped) == mcnemar(strata_)


def test_sets_of_one_size_are_one_set() -> None:
    assert mcnemar([(50, 3, 1), (50, 9, 2)]) == mcnemar([(50, 12, 3)])


def test_the_limit_is_near_the_exact_value(monkeypatch: pytest.MonkeyPatch) -> None:
    many = [(500, 180, 140), (2500, 300, 210)]
    counted_out = mcnemar(many)
    monkeypatch.setattr(exact, "STATES", 1)
    assert mcnemar(many) == pytest.approx(counted_out, rel=0.05)
    assert 1e-6 < counted_out < 1e-2


# -- settings, families --


@given(st.lists(st.integers(-9, 9).map(float), min_size=2, max_size=6))
@settings(max_examples=15)
def test_sign_flips_are_scipys_permutation_test(differences: list[float]) -> None:
    known = stats.permutation_test(
        (differences,), sum, permutation_type="samples", n_resamples=10**6
    )
    assert sign_flips(differences) == pytest.approx(known.pvalue)


def test_many_settings_are_drawn() -> None:
    few = [3.0, -1.0, 2.0, 4.0, -2.5, 1.0, 0.5, 2.0, -1.5, 3.5, 1.0, -0.5, 2.0, 1.0]
    assert sign_flips([*few, 0.0]) == pytest.approx(sign_flips(few), abs=0.02)
    assert sign_flips([1.0] * 40) == 1 / (1 + exact.DRAWN)


def test_holm_agrees_with_the_textbook() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
@settings(max_examples=50)
def test_holm_closes_bonferroni(values: list[float]) -> None:
    """By closed testing: the worst Bonferroni test of the families that a member is in."""
    indices = range(len(values))
    families = [f for size in range(1, len(values) + 1) for f in combinations(indices, size)]
    worth = {f: min(1.0, len(f) * min(values[at] for at in f)) for f in families}
    expected = [max(p for f, p in worth.items() if at in f) for at in indices]
    assert holm(values) == pytest.approx(expected)


# -- hits --

labels = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40
)
"""(true class, clean prediction, prediction with the trigger) per image; class 1 is the target."""


def packed(path: Path, key: str, images: Sequence[tuple[int, int, int]]) -> Evaluation:
    """Write hits as `benchmark.evaluation` does, and count them by the definitions."""
    import torch
    from safetensors.torch import save_file

    from benchmark.evaluation import pack

    def hit(rule) -> torch.Tensor:
        return torch.tensor([rule(*image) for image in images])

    def count(rule, among=lambda y, c, t: True) -> Count:
        chosen = [image for image in images if among(*image)]
        return Count(sum(rule(*image) for image in chosen), len(chosen))

    raw = {
        "clean/signs": hit(lambda y, c, t: c == y),
        "0/asr": hit(lambda y, c, t: t == 1),
        "0/clean_to_target": hit(lambda y, c, t: c == 1),
        "0/correct": hit(lambda y, c, t: t == y),
    }
    save_file(pack(raw), path / f"{key}.safetensors")
    threat = ThreatCounts(
        task="signs",
        target=1,
        asr=count(lambda y, c, t: t == 1, lambda y, c, t: y != 1),
        target_rate=count(lambda y, c, t: c == 1, lambda y, c, t: y != 1),
        target_recall=count(lambda y, c, t: c == 1, lambda y, c, t: y == 1),
        triggered_acc=count(lambda y, c, t: t == y),
        misclassified=count(lambda y, c, t: t != y),
        flipped={},
        flipped_shuffled={},
    )
    return Evaluation(key, {"signs": count(lambda y, c, t: c == y)}, (threat,))


RULES = {
    "ca": lambda y, c, t: c == y,
    "asr": lambda y, c, t: y != 1 and t == 1,
    "target_recall": lambda y, c, t: y == 1 and c == 1,
    "triggered_acc": lambda y, c, t: t == y,
}


@given(labels, st.randoms(use_true_random=False))
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pairs_are_counted_by_the_definitions(tmp_path: Path, images, rng) -> None:
    folder = tmp_path  # each example overwrites the files of the one before
    others = [(y, rng.randrange(3), rng.randrange(3)) for y, _, _ in images]
    models = [packed(folder, "one", images), packed(folder, "two", others)]
    found = {one.key: read_hits(folder / f"{one.key}.safetensors", one) for one in models}
    for metric, rule in RULES.items():
        pairs = [(rule(*a), rule(*b)) for a, b in zip(images, others, strict=True)]
        told = strata(metric, *models, found)
        if told is None:  # nothing to count: no image of the class, or none but of the class
            assert not any(a or b for a, b in pairs)
            continue
        ((_, ours, theirs),) = told
        assert ours == sum(a and not b for a, b in pairs)
        assert theirs == sum(b and not a for a, b in pairs)


def test_hits_that_are_not_the_records_are_refused(tmp_path: Path) -> None:
    made = packed(tmp_path, "x", [(0, 0, 1), (1, 1, 1), (2, 2, 2)])
    path = tmp_path / "x.safetensors"
    wrong = replace(made, clean={"signs": Count(2, 3)})
    with pytest.raises(BenchError, match=r"3 hits in clean/signs where its record has 2; delete"):
        read_hits(path, wrong)
    with pytest.raises(BenchError, match="no per-image hits"):
        read_hits(path, replace(made, clean={"flags": Count(2, 3)}))
    path.write_bytes(b"no tensors")
    with pytest.raises(BenchError, match=r"x\.safetensors holds no per-image hits .* delete it"):
        read_hits(path, made)


def test_adopted_hits_are_found_beside_their_records(tmp_path: Path) -> None:
    from benchmark.records import write

    stored = tmp_path / "store" / "artifacts" / "evaluation"
    stored.mkdir(parents=True)
    made = record("ft", packed(stored, "x", [(0, 0, 1), (1, 1, 1)]))
    write(tmp_path / "store" / "records", made)
    write(tmp_path / "kept" / "records", made)
    adopt_hits([made, record("lfpm")], tmp_path / "store", tmp_path / "kept" / "records")
    found = find_hits(tmp_path / "store", [made])
    assert found["x"] == {"clean/signs": 3 << 6, "0/asr": 1 << 7, "0/target_recall": 1 << 6,
                          "0/triggered_acc": 1 << 6}  # fmt: skip
    both = [tmp_path / "kept", tmp_path / "store", tmp_path / "kept" / "records"]
    assert gather(both) == ([made], found)
    assert [path.name for path in (tmp_path / "kept" / "hits").iterdir()] == ["x.safetensors"]


# -- rows --


def cell(defense: str, asr: int, seed: int = 0, ca: int = 80, **config: Any) -> Record:
    main = evaluation(f"{asr} {ca}", ca=(ca, ca), asr=asr)
    values = {"attack": {"size": 6}, **config}
    return record(defense, main, seed=seed, config=values)


def bold(records: Sequence[Record]) -> set[str]:
    """The defences whose ASR is bold."""
    text = render(make("demo", records, hits=hits(records)), "md")
    lines = [[one.strip() for one in line.split("|")] for line in text.splitlines()]
    return {line[1] for line in lines if len(line) > 4 and line[4].startswith("**")}


def test_only_what_is_significantly_better_is_bold() -> None:
    clear, close = cell("lfpm", 30), cell("ibvs", 36)
    assert bold([cell("ft", 60), clear]) == {"lfpm"}
    # 6 of 6 images alone: mid-p 1/64; but there are two metrics and three pairs.
    assert bold([cell("ft", 60), clear, close]) == set()
    assert bold([clear]) == set()
    assert bold([clear, cell("ft", 30)]) == set()


def test_without_hits_nothing_is_bold_and_the_caption_says_so() -> None:
    made = make("demo", [cell("ft", 60), cell("lfpm", 0)])
    text = render(made, "md")
    assert made.tests == ()
    assert "**lfpm" not in text
    assert "nothing was tested: 1 of 1 pairs of ranked rows are not tested" in text
    assert "share no seed with per-image hits" in text


def test_the_largest_p_of_the_seeds_counts_and_they_must_agree() -> None:
    def p(pairs: Sequence[tuple[int, int]]) -> float:
        made = [
            cell(name, asr, seed)
            for seed, pair in enumerate(pairs)
            for name, asr in zip(("ft", "lfpm"), pair, strict=True)
        ]
        tests = make("demo", made, hits=hits(made)).tests
        (one,) = (test for test in tests if test.metric == "asr")
        assert one.seeds == tuple(range(len(pairs)))
        assert one.differences == tuple(a - b for a, b in pairs)
        return one.p

    assert p([(60, 50)]) == mcnemar([(100, 10, 0)])
    assert p([(60, 50), (90, 10)]) == mcnemar([(100, 10, 0)])
    assert p([(60, 50)] * 3) == p([(60, 50)])  # three seeds are not three times the images
    assert p([(60, 50), (10, 90)]) == 1.0
    assert p([(60, 50), (50, 50)]) == 1.0


def test_only_seeds_that_both_have_are_compared() -> None:
    made = [cell("ft", 60), cell("ft", 70, 1), cell("lfpm", 10, 1), cell("lfpm", 20, 2)]
    (one,) = (t for t in make("demo", made, hits=hits(made)).tests if t.metric == "asr")
    assert (one.seeds, one.differences) == ((1,), (60.0,))
    apart = [cell("ft", 60), cell("lfpm", 10, 1)]
    assert make("demo", apart, hits=hits(apart)).tests == ()


def test_rows_of_other_triggers_are_not_compared() -> None:
    made = [cell("ft", 60), cell("lfpm", 10, finetune={"epochs": 9})]
    table = make("demo", made, hits=hits(made))
    assert table.tests == ()
    assert "1 of 1 pairs" in render(table, "md")


def test_rows_of_one_setting_are_compared_whenever_they_were_recorded() -> None:
    """Options that came later, at their neutral values, are no difference (`alike.telling`)."""
    backbone = {"_target_": "benchmark.models.backbone.Backbone", "size": 32}
    earlier: dict[str, Any] = {"suite": {"granted": 300}, "backbone": backbone}
    later: dict[str, Any] = {
        "suite": {"granted": 300, "precision": None},
        "backbone": {**backbone, "name": None, "precision": "float32"},
    }
    made = [cell("ft", 60, **earlier), cell("lfpm", 10, **later)]
    table = make("demo", made, hits=hits(made))
    assert {test.metric for test in table.tests} == {"ca", "asr", "target_recall", "triggered_acc"}
    assert bold(made) == {"lfpm"}
    other = [made[0], cell("lfpm", 10, **{**later, "suite": {"precision": "float16"}})]
    assert make("demo", other, hits=hits(other)).tests == ()


def test_p_values_are_adjusted_for_the_whole_table() -> None:
    made = [cell("ft", 60, ca=70), cell("ibvs", 40, ca=72), cell("lfpm", 0, ca=71)]
    tests = make("demo", made, hits=hits(made)).tests
    assert len(tests) == 3 * 4  # pairs x (ca, asr, target_recall, triggered_acc)
    assert [test.adjusted for test in tests] == holm([test.p for test in tests])


def test_rivals_that_cannot_be_told_apart_are_named() -> None:
    made = [cell("ft", 60), cell("ibvs", 32), cell("lfpm", 30)]
    text = render(make("demo", made, hits=hits(made)), "md")
    assert "- badmerging_on x task_arithmetic: ASR not told from lfpm's at 5 %: ibvs." in text


def test_settings_are_the_units_of_a_table_over_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    # The intervals are not of interest here, and drawing them takes seconds.
    monkeypatch.setattr("benchmark.tables.stats.bootstrap", lambda numbers: (0.0, 1.0))

    def over(settings: int) -> str:
        made = [
            record(
                name,
                evaluation(f"{name} {at}", asr=asr + at),
                names={"suite": "mini"},
                config={"attack": {"adversary": "flags", "target": at, "place": "center"}},
            )
            for name, asr in (("none", 85), ("ft", 60), ("lfpm", 10))
            for at in range(settings)
        ]
        return render(make("heldout_lfpm", made), "md")

    assert "**1" not in over(5)  # 2 of 32 patterns of signs: 0.0625
    twelve = over(12)
    assert "**15.5" in twelve  # 2 of 4,096
    assert "sign-flip tests over the 12 settings that two rows share" in twelve


def test_counted_names_every_bit() -> None:
    assert counted(evaluation()) == {
        "clean/digits": 80, "clean/signs": 60, "0/asr": 95, "0/target_recall": 45,
        "0/triggered_acc": 10,
    }  # fmt: skip
