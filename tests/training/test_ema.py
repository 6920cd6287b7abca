"""EMA of the weights in the training loop: updates, evaluation, checkpoints.

The tests of resumed and of sharded runs compare the EMA too, bit by bit or to float tolerance.
"""

import itertools

import torch
from timm.utils import ModelEmaV3

from .problem import PLAIN, network, train


def test_ema_is_updated_every_step_and_evaluated(tmp_path):
    """Training itself continues from the model's own weights."""
    model = network(dropout=0.0)
    ema, history, evaluated = ModelEmaV3(model, decay=0.9), [], []
    update = ema.update

    def recorded(model):
        update(model)
        history.append((ema.module[0].weight.clone(), model[0].weight.clone()))

    def evaluate(module):
        assert not module.training
        evaluated.append(module[0].weight.clone())
        return {"error": 1.0}

    ema.update = recorded
    train(
        tmp_path,
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05),
        ema=ema,
        evaluate=evaluate,
    )
    assert len(history) == 12 and len(evaluated) == 4
    for mean, weights in zip(evaluated, (history[i] for i in (2, 5, 8, 11)), strict=True):
        assert torch.equal(mean, weights[0]) and not torch.equal(mean, weights[1])
    for (before, _), (after, weights) in itertools.pairwise(history):
        torch.testing.assert_close(after, 0.9 * before + 0.1 * weights)


def test_checkpoint_holds_the_ema(uninterrupted):
    state = uninterrupted.state
    assert state["ema"].keys() == state["model"].keys()
    assert not any(torch.equal(state["ema"][n], state["model"][n]) for n in ("0.weight", "4.bias"))


def test_without_ema_the_model_itself_is_evaluated(tmp_path):
    evaluated = []
    model = network()

    def evaluate(module):
        evaluated.append(module is model and not module.training)
        return {"error": 1.0}

    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    run = train(tmp_path, PLAIN, model=model, optimizer=optimizer, evaluate=evaluate)
    assert evaluated == [True] * 4
    assert model.training
    assert run.state["ema"] == {}
