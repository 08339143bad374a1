"""The training loop: loss falls, a killed run resumed ends with the same weights, the best weights are kept."""

import json

import pytest
import torch
from torch import nn

from fiftyone_rexseek.errors import CheckpointError, ConfigError
from fiftyone_rexseek.training.loop import LoopConfig, make_folder, read_log, train
from fiftyone_rexseek.training.optim import Muon, build_optimizers


def toy_model():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Dropout(0.1), nn.Linear(16, 2))


def toy_batch(number):
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(32, 6, generator=generator)
    return x, torch.stack([x[:, 0] - x[:, 1], (x[:, 2] * 2).tanh()], 1)


def toy_loss(model, batch, progress):
    error = (model(batch[0]) - batch[1]).pow(2).mean()
    return error, {"progress_seen": progress}


def toy_validate(model):
    x, y = toy_batch(10**6)
    return {"score": -float((model(x) - y).pow(2).mean())}


def run(folder, steps=40, stop_after=None, **options):
    model = toy_model()
    optimizers = build_optimizers(model.named_parameters(), lr=5e-3, muon_lr=1e-2)
    options = {"checkpoint_every": 10, "validate_every": 10, "log_every": 5, "progress": False, **options}
    config = LoopConfig(folder, steps=steps, **options)
    return model, train(model, toy_batch, toy_loss, optimizers, config, toy_validate, stop_after=stop_after)


def test_loss_falls_and_everything_is_written(tmp_path):
    _, result = run(tmp_path / "run", steps=120)
    assert result.step == 120
    losses = [row["loss"] for row in result.history if "loss" in row]
    assert losses[-1] < 0.6 * losses[0]
    scores = [row["val_score"] for row in result.history if "val_score" in row]
    assert result.best_score == max(scores)
    for name in ("log.jsonl", "log.png", "best.pt", "checkpoint.pt"):
        assert (tmp_path / "run" / name).stat().st_size > 0
    assert read_log(tmp_path / "run") == result.history


def test_the_last_step_is_logged_and_few_points_can_be_seen(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    plot, markers = Axes.plot, []
    monkeypatch.setattr(Axes, "plot", lambda *a, **k: markers.append(k["marker"]) or plot(*a, **k))
    _, result = run(tmp_path, steps=7)
    assert [row["step"] for row in result.history if "loss" in row] == [5, 7]
    assert markers and set(markers) == {"."}


@pytest.mark.parametrize("options", [{}, {"workers": 2}, {"accumulate": 3, "ema": 0.9, "bf16": True, "prefetch": False}])
def test_resumed_run_is_the_same_bit_for_bit(tmp_path, options):
    whole, _ = run(tmp_path / "whole", **options)
    run(tmp_path / "parts", stop_after=23, **options)  # killed 3 steps after its checkpoint
    with open(tmp_path / "parts" / "log.jsonl", "a") as file:
        file.write('{"step": 24, "lo')  # the kill came while writing
    resumed, result = run(tmp_path / "parts", **options)
    assert result.step == 40
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values()):
        assert torch.equal(a, b)
    whole_steps = [(r["step"], r.get("loss"), r.get("val_score")) for r in read_log(tmp_path / "whole")]
    steps = [(r["step"], r.get("val_score")) for r in read_log(tmp_path / "parts")]
    assert [s[0] for s in whole_steps] == [s[0] for s in steps]
    assert [s[2] for s in whole_steps] == [s[1] for s in steps]


def test_a_resumed_run_takes_the_rate_of_its_call(tmp_path):
    run(tmp_path, stop_after=10)
    model = toy_model()
    optimizers = build_optimizers(model.named_parameters(), lr=1e-4, weight_decay=0.3)
    again = LoopConfig(tmp_path, steps=20, log_every=0, progress=False)
    with pytest.raises(CheckpointError, match="cannot resume"):  # other optimisers
        train(model, toy_batch, toy_loss, optimizers, again)
    optimizers = build_optimizers(model.named_parameters(), lr=1e-4, muon_lr=1e-2, weight_decay=0.3)
    assert train(model, toy_batch, toy_loss, optimizers, again).step == 20
    adam, muon = optimizers
    assert {g["base_lr"] for g in adam.param_groups} == {1e-4} and max(g["weight_decay"] for g in muon.param_groups) == 0.3


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "below", "/proc/nowhere"):
        with pytest.raises(ConfigError, match=r"cannot write the result; expected a folder.*Choose another"):
            make_folder(place)


def test_finished_run_is_not_run_again(tmp_path, caplog):
    first, _ = run(tmp_path)
    assert not caplog.messages
    again, result = run(tmp_path)
    assert "holds a finished run of 40 steps" in caplog.text
    assert result.step == 40
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values()))


def test_best_weights_are_returned(tmp_path):
    scores = iter([1.0, 5.0, 2.0, 3.0])
    seen = []

    def validate(model):
        seen.append({k: v.clone() for k, v in model.state_dict().items()})
        return {"score": next(scores)}

    model = toy_model()
    exported = []
    config = LoopConfig(tmp_path, steps=40, validate_every=10, progress=False)
    optimizers = build_optimizers(model.named_parameters(), lr=1e-2)
    result = train(
        model, toy_batch, toy_loss, optimizers, config, validate, on_best=lambda m, n: exported.append(n["score"])
    )
    assert (result.best_score, result.best_step, exported) == (5.0, 20, [1.0, 5.0])
    assert all(torch.equal(v, seen[1][k]) for k, v in model.state_dict().items())


def test_checkpoint_of_another_model_is_refused(tmp_path):
    run(tmp_path, steps=10)
    other = nn.Linear(6, 2)
    with pytest.raises(CheckpointError, match="another output folder"):
        train(other, toy_batch, toy_loss, build_optimizers(other.named_parameters(), lr=1e-2), LoopConfig(tmp_path, steps=20))


def test_broken_checkpoint_is_refused(tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"PK no checkpoint")
    with pytest.raises(CheckpointError):
        run(tmp_path)


def test_a_step_that_is_not_finite_is_skipped(tmp_path):
    model = toy_model()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    bad = lambda m, batch, progress: m(batch[0]).sum() * float("nan")  # noqa: E731
    optimizers = build_optimizers(model.named_parameters(), lr=1e-2)
    train(model, toy_batch, bad, optimizers, LoopConfig(tmp_path, steps=2, progress=False))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("clip", [1.0, 0.0])
def test_one_bad_loss_neither_reaches_the_weights_nor_hides_the_others(tmp_path, clip):
    def loss(model, batch, progress):
        error = toy_loss(model, batch, progress)[0]
        return error * float("nan") if progress == 0 else error

    model = toy_model()
    optimizers = build_optimizers(model.named_parameters(), lr=1e-2)
    config = LoopConfig(tmp_path, steps=4, clip=clip, log_every=1, progress=False)
    result = train(model, toy_batch, loss, optimizers, config)
    assert all(v.isfinite().all() for v in model.state_dict().values())
    losses = [row.get("loss") for row in result.history]
    assert losses[0] is None and all(loss == loss for loss in losses[1:])


def test_a_score_that_is_no_number_does_not_become_the_best(tmp_path):
    scores = iter([float("nan"), 0.25, float("inf"), 0.5])
    model = toy_model()
    config = LoopConfig(tmp_path, steps=40, validate_every=10, progress=False)
    optimizers = build_optimizers(model.named_parameters(), lr=1e-2)
    result = train(model, toy_batch, toy_loss, optimizers, config, lambda m: {"score": next(scores)})
    assert (result.best_score, result.best_step) == (0.5, 40)


def test_a_run_goes_on_only_from_the_weights_it_started_from(tmp_path):
    def half_frozen(change=0.0):
        model = toy_model()
        model[0].requires_grad_(False)
        model[0].weight.data += change
        optimizers = build_optimizers(model.named_parameters(), lr=1e-2)
        return lambda steps: train(model, toy_batch, toy_loss, optimizers, LoopConfig(tmp_path, steps=steps, progress=False))

    half_frozen()(4)
    with pytest.raises(CheckpointError, match=r"started from other weights.*another output folder"):
        half_frozen(0.01)(8)
    assert half_frozen()(8).step == 8


def test_a_run_goes_on_with_fewer_gpus(tmp_path, monkeypatch):
    run(tmp_path, steps=10)
    state = torch.load(tmp_path / "checkpoint.pt")
    state["cuda_rng"] = [torch.tensor([i], dtype=torch.uint8) for i in range(2)]
    torch.save(state, tmp_path / "checkpoint.pt")
    given = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", given.extend)
    assert run(tmp_path, steps=10)[1].step == 10
    assert given == state["cuda_rng"][:1]
    del state["step"]
    torch.save(state, tmp_path / "checkpoint.pt")
    with pytest.raises(CheckpointError, match="cannot resume"):
        run(tmp_path, steps=10)


def test_time_budget_ends_the_run(tmp_path):
    _, result = run(tmp_path, steps=None, minutes=0.003)
    assert 0.15 <= result.seconds < 5
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows


def test_no_budget_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="budget"):
        LoopConfig(tmp_path)


def test_muon_refuses_vectors_and_leaves_frozen_parameters_out():
    with pytest.raises(ValueError, match="matrices and convolutions"):
        Muon([nn.Parameter(torch.zeros(3))])
    model = toy_model()
    model[0].weight.requires_grad_(False)
    groups = [g for o in build_optimizers(model.named_parameters(), lr=1, muon_lr=1) for g in o.param_groups]
    assert sum(len(g["params"]) for g in groups) == 3


def test_accelerate_runs_the_same_loop(tmp_path):
    from accelerate import Accelerator

    model = toy_model()
    optimizers = build_optimizers(model.named_parameters(), lr=5e-3, muon_lr=1e-2)
    config = LoopConfig(tmp_path / "accelerated", steps=40, checkpoint_every=10, validate_every=10, progress=False)
    result = train(model, toy_batch, toy_loss, optimizers, config, toy_validate, accelerator=Accelerator(cpu=True))
    plain, _ = run(tmp_path / "plain")
    assert result.step == 40
    for a, b in zip(model.state_dict().values(), plain.state_dict().values()):
        torch.testing.assert_close(a, b)
