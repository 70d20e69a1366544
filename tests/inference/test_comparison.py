"""Evaluations compared: intervals against scipy's tests, and what is refused."""

import json
import sys

import pytest
import scipy.stats

from lightningdit_jax.commands.compare_evaluations import main
from lightningdit_jax.evaluation.error_bars import of_mean
from lightningdit_jax.inference.quality.comparison import (
    LARGER,
    SMALLER,
    UNKNOWN,
    differences,
    notes,
    read_evaluations,
)
from lightningdit_jax.inference.quality.records import SEEDS, error_bars, mean_of_seeds

SEEDED = {
    "a": {"0": 2.00, "1": 2.10, "2": 2.05, "3": 1.95},
    "b": {"0": 2.02, "1": 2.13, "2": 2.06, "3": 1.99},
    "far": {"7": 4.0, "8": 4.1, "9": 3.9},
}


def record(seeds, *, count=100, labels="random", reference="ref.npz", weights="w"):
    """An evaluation.json of these FIDs by seed."""
    numbers = {seed: {"fid": fid, "num_samples": count} for seed, fid in seeds.items()}
    judgment = mean_of_seeds(numbers)
    made_with = {"labels": labels, "weights": {"dit": {"path": "x", "fingerprint": weights}}}
    of = {
        "samples": {"made_with": made_with, "count": count},
        "reference": {"path": f"/somewhere/{reference}", "count": 10},
        "inception": {"path": "ckpts/inception", "weights": "f"},
    }
    bars = error_bars(SEEDS, judgment.bars)
    return {**judgment.numbers, **bars, "seeds": numbers, "of": of}


@pytest.fixture
def written(tmp_path):
    def write(name, content):
        (tmp_path / name).write_text(json.dumps(content))
        return read_evaluations(tmp_path / name)

    return write


def test_common_seeds_are_paired_and_others_are_welchs(written):
    """Paired, the small difference of a and b shows; by their spreads alone it would not."""
    (a,), (b,), (far,) = (written(f"{n}.json", record(s)) for n, s in SEEDED.items())
    values = {name: list(seeds.values()) for name, seeds in SEEDED.items()}
    (paired,) = differences(a, b)
    want = scipy.stats.ttest_rel(values["b"], values["a"]).confidence_interval()
    assert paired.bar.interval == pytest.approx((want.low, want.high)) and paired.words == LARGER
    (welch,) = differences(a, far)
    want = scipy.stats.ttest_ind(values["far"], values["a"], equal_var=False).confidence_interval()
    assert welch.bar.interval == pytest.approx((want.low, want.high)) and welch.words == LARGER
    unpaired = record(dict(zip("wxyz", values["b"])))
    (apart,) = differences(a, *written("unpaired.json", unpaired))
    assert apart.words == SMALLER and apart.bar.value == pytest.approx(paired.bar.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"reference": "other.npz"}, r"reference differ, path ref\.npz and other\.npz"),
        ({"labels": "balanced"}, "labels differ, random and balanced"),
        ({"count": 50}, "is of 100 samples, .* of 50, and FID of fewer is larger"),
    ],
)
def test_what_does_not_compare_is_refused(written, change, told):
    (a,) = written("a.json", record(SEEDED["a"]))
    (other,) = written("other.json", record(SEEDED["b"], **change))
    with pytest.raises(ValueError, match=told):
        differences(a, other)


def test_other_metrics_are_refused_and_what_is_not_known_is_said(written):
    (a,) = written("a.json", record(SEEDED["a"]))
    foreign = {"fid": 2.0, "num_samples": 100, "of": {"samples": {"made_with": None}}}
    (found,) = differences(a, *written("foreign.json", foreign))
    assert (found.words, found.bar) == (UNKNOWN, None) and "foreign.json" in found.by
    said = " ".join(notes(a, *written("foreign.json", foreign)))
    assert "weights differ" in said and "labels, inception network" in said
    assert not list(notes(a, *written("b.json", record(SEEDED["b"]))))
    digits = {"digits_fid": 1.0, "num_samples": 100}
    with pytest.raises(ValueError, match=r"has fid, num_samples, .* has digits_fid, .*other metr"):
        differences(a, *written("digits.json", digits))


def test_what_is_the_same_in_all_evaluations_is_left_out(written):
    pair = []
    for name in "ab":
        content = record(SEEDED[name])
        for numbers in (content, *content["seeds"].values()):
            numbers["fid_real"] = 0.5
        pair += written(f"{name}.json", content)
    assert [found.name for found in differences(*pair)] == ["fid"]
    assert [found.name for found in differences(pair[0], pair[0])] == ["fid", "fid_real"]


def test_extrapolated_distances_compare_whatever_their_samples(written):
    pair = []
    for count, spread in ((100, 0.1), (800, 0.03)):
        bar = of_mean([2 - spread, 2, 2 + spread]).to_json()
        content = {"fid": 2 + 30 / count, "fid_infinity": 2.0, "num_samples": count}
        content["error_bars"] = {"over": "", "numbers": {"fid_infinity": bar}}
        pair += written(f"{count}.json", content)
    (found,) = differences(*pair)
    assert (found.name, found.words) == ("fid_infinity", SMALLER)


def test_the_command_prints_rows_of_a_sweep_and_refuses_in_a_line(tmp_path, monkeypatch, capsys):
    rows = []
    for scale, name in ((1.0, "a"), (2.0, "b")):
        content = record(SEEDED[name])
        row = {"settings": {"cfg_scale": scale, "labels": "random", "num_samples": 100}}
        row |= {"numbers": {"fid": content["fid"]}}
        rows.append(row | {key: content[key] for key in ("error_bars", "seeds")})
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps(rows))
    monkeypatch.setattr(sys, "argv", ["compare", str(path)])
    main()
    out = capsys.readouterr().out
    assert "note: not known" not in out
    assert f"second: {path}: cfg_scale 2.0" in out and "larger than the spread" in out
    assert "+0.0250" in out and "4 common seeds" in out
    for arguments, told in (
        ([str(tmp_path / "none.json")], "there is no such file"),
        ([str(path), "--number=fld"], "no number fld; there are fid"),
    ):
        monkeypatch.setattr(sys, "argv", ["compare", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        err = capsys.readouterr().err
        assert ended.value.code == 2 and told in err and err.count("\n") == 1
