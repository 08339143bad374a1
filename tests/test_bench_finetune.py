"""The fine-tuning demonstration: its examples are what it says, and a few steps of it run."""

import pytest

from benchmarks import bench_finetune


def test_examples_name_the_new_character_and_some_have_no_target(tmp_path):
    pairs = bench_finetune.new_examples(tmp_path, seed=1, count=12)
    assert len(pairs) == 12
    for example, path in pairs:
        assert "frost" in example.expression.lower() or "snowman" in example.expression.lower()
        assert set(example.targets) <= set(example.candidates)
        assert (tmp_path / path).is_file()
    assert 0 < sum(not e.targets for e, _ in pairs) <= 4


@pytest.mark.slow
def test_a_few_steps_run(monkeypatch):
    monkeypatch.setattr("fiftyone_rexseek.training.drawn.SHARD", 8)
    monkeypatch.setattr(bench_finetune, "EXAMPLES", 8)
    new, rest = bench_finetune.run(quick=True)
    assert 0 <= new.value <= 1 and -1 <= rest.value <= 1
    assert "4 steps" in new.note
