"""Draws that are functions, and a training that goes on where it was killed."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from aerialdreams.data.augmentation import ORIENTATIONS, orient
from aerialdreams.errors import WorkError
from aerialdreams.training.batches import batch_indices, drop_captions
from aerialdreams.training.checkpoint import Checkpoint, StopSignal
from aerialdreams.training.loss_curves import LossCurve, TimestepBins
from aerialdreams.training.schedule import learning_rate_at
from aerialdreams.util.torch_setup import configure_torch


def test_an_epoch_draws_every_sample_once() -> None:
    drawn = [sample for step in range(6) for sample in batch_indices(7, step, 5, 10)]
    assert sorted(drawn[:10]) == sorted(drawn[10:20]) == list(range(10))
    assert drawn[:10] != drawn[10:20]
    assert batch_indices(7, 3, 5, 10) == drawn[15:20]  # a step needs nothing but its number
    assert batch_indices(8, 0, 10, 10) != drawn[:10]


def test_captions_are_dropped_at_their_share() -> None:
    rows = [row for step in range(500) for row in drop_captions([3, 4], 0.1, 0, step)]
    assert set(rows) == {3, 4, -1}
    assert 0.07 < rows.count(-1) / len(rows) < 0.13


def test_the_rate_rises_and_falls() -> None:
    rates = [learning_rate_at(step, 100, 1.0, 10) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10] == rates[9] == 1.0
    assert rates[99] < 0.02
    assert learning_rate_at(99, 100, 1.0, 10, "constant") == 1.0


def test_a_square_has_eight_positions() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    seen = [orient(image, number) for number in range(ORIENTATIONS)]
    assert len({view.tobytes() for view in seen}) == ORIENTATIONS
    assert np.array_equal(seen[0], image)
    assert np.array_equal(seen[1], image.transpose(1, 0, 2)[::-1])  # a quarter to the left
    assert np.array_equal(seen[4], image[:, ::-1])  # mirrored, left to right


def train(
    path: Path,
    steps: int,
    stop: int | None = None,
    signalled: tuple[int, signal.Signals] | None = None,
) -> dict[str, torch.Tensor]:
    """A small training; with `stop` it dies there, as if killed between two checkpoints.

    With `signalled` a signal comes in the middle of that step.
    """
    configure_torch(1)
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    losses = LossCurve("test")
    parts = {"model": model, "optimizer": optimizer, "losses": losses}
    checkpoint = Checkpoint(path, parts)
    with StopSignal() as stop_signal:
        for step in range(checkpoint.restore(), steps):
            if step == stop:
                checkpoint.wait()
                raise KeyboardInterrupt
            if signalled and step == signalled[0]:
                os.kill(os.getpid(), signalled[1])
                os.kill(os.getpid(), signal.SIGTERM)  # a scheduler may send another
            x = torch.tensor(batch_indices(1, step, 4, 32)).float()
            loss = (model(x) - x.roll(1)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.add(loss)
            done, stopping = step + 1, stop_signal.received
            if stopping or done % 5 == 0:
                checkpoint.save(done)
            if stopping:
                checkpoint.wait()
                raise KeyboardInterrupt
    checkpoint.wait()
    return model.state_dict() | {"losses": torch.tensor(losses.values)}


@pytest.mark.parametrize("stop", [3, 5, 13, 19])
def test_a_killed_training_ends_with_the_same_weights(tmp_path: Path, stop: int) -> None:
    whole = train(tmp_path / "a.pt", 20)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b.pt", 20, stop)
    resumed = train(tmp_path / "b.pt", 20)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_machine_that_is_taken_away_leaves_the_step_it_was_in(
    tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tmp_path / "a.pt", 20)
    save, saved = Checkpoint.save, []

    def note(self: Checkpoint, done: int) -> None:
        saved.append(done)
        save(self, done)

    monkeypatch.setattr(Checkpoint, "save", note)
    handler = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b.pt", 20, signalled=(7, number))
    assert saved == [5, 8]  # as ever, and when step 7, the eighth, was done
    assert signal.getsignal(number) == handler
    resumed = train(tmp_path / "b.pt", 20)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_loss_that_is_no_number_stops(tmp_path: Path) -> None:
    losses = LossCurve("ControlNet")
    with pytest.raises(WorkError, match="ControlNet: the loss is nan at step 3; lower"):
        for step in range(60):
            losses.add(torch.tensor(1.0 if step < 2 else float("nan")))
    short = LossCurve("ControlNet")
    short.add(torch.tensor(float("inf")))
    with pytest.raises(WorkError, match="the loss is inf at step 1"):
        short.check()


def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train(tmp_path / "a.pt", 20)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b.pt", 20, stop=12)  # saved at 5 and at 10
    last = tmp_path / "b.pt"
    last.write_bytes(last.read_bytes()[:1000])
    resumed = train(last, 20)
    assert "b.pt: damaged checkpoint" in capsys.readouterr().err
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_errors_by_band_of_timesteps() -> None:
    bins = TimestepBins(1000, torch.device("cpu"))
    bins.add(torch.tensor([0, 249, 250, 999]), torch.tensor([1.0, 3.0, 5.0, 7.0]))
    bins.add(torch.tensor([100]), torch.tensor([5.0]))
    means = {"loss_t000_249": 3.0, "loss_t250_499": 5.0, "loss_t750_999": 7.0}
    assert bins.pop(lambda sums: sums) == means
    assert bins.pop(lambda sums: sums) == {}


def test_means_cover_every_step() -> None:
    losses = LossCurve("x")
    for value in range(7):
        losses.add(torch.tensor(float(value)))
    assert losses.means(3) == [(3, 1.0), (6, 4.0), (7, 6.0)]
