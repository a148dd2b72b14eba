"""The mean of the weights of several checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import METHODS, small

from lightning_vos import load
from lightning_vos.average import main
from lightning_vos.official import save_checkpoint


def saved(method: str, path: Path, seed: int, **changes: object) -> str:
    save_checkpoint(small(method, seed, **changes), str(path))
    return str(path)


@pytest.mark.parametrize("method", METHODS)
def test_every_weight_is_the_mean(method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [saved(method, tmp_path / f"{seed}.ckpt", seed) for seed in range(3)]
    mean = str(tmp_path / "new" / "mean.ckpt")
    main([*files, mean])
    assert capsys.readouterr().out == f"{mean}: {method}, mean of 3 checkpoints\n"
    states = [torch.load(file, weights_only=True)["state_dict"] for file in files]
    model = load(mean)
    assert type(model).__name__ == f"{method}Segmenter"
    assert not model.training
    assert torch.load(mean, weights_only=True)["hyper_parameters"] == dict(small(method).hparams)
    for name, value in model.state_dict().items():
        parts = torch.stack([state[name] for state in states])
        expected = parts.double().mean(0).to(value.dtype) if value.is_floating_point() else parts[0]
        assert torch.equal(value, expected), name
    assert any(not torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_what_cannot_be_averaged(tmp_path: Path) -> None:
    one, mean = saved("REMN", tmp_path / "one.ckpt", 0), tmp_path / "mean.ckpt"
    wide = saved("REMN", tmp_path / "wide.ckpt", 0, key_dim=24)
    other = saved("SiamDyn", tmp_path / "other.ckpt", 0)
    (tmp_path / "text.ckpt").write_text("hello")
    for words, line in [
        ([one], "nothing to average; give two checkpoints or more"),
        ([one, str(tmp_path / "lost.ckpt")], r"lost\.ckpt: no such file"),
        ([one, wide], r"wide\.ckpt: \d+ entries do not fit .*one\.ckpt \(.* is \(24, .* instead of \(16, "),
        ([one, other], r"other\.ckpt belongs to SiamDyn, not to REMN"),
        ([one, str(tmp_path / "text.ckpt")], r"text\.ckpt: cannot be read as a checkpoint"),
    ]:
        with pytest.raises((ValueError, FileNotFoundError), match=line):
            main([*words, str(mean)])
        assert not mean.exists()


def test_load_takes_settings_and_names_what_it_cannot_read(tmp_path: Path) -> None:
    file = saved("REMN", tmp_path / "one.ckpt", 0)
    model = load(file, top_k=3, gate={"target": 0.25})
    assert (model.bank.top_k, model.bank.settings.target) == (3, 0.25)
    assert model.bank.settings.min_frames == 4  # the rest of the part is as it was trained
    content = torch.load(file, weights_only=True)
    torch.save({**content, "network": "STM"}, tmp_path / "other.ckpt")
    for name, error, line in [
        ("lost.ckpt", FileNotFoundError, r"lost\.ckpt: no such file"),
        ("other.ckpt", ValueError, r"other\.ckpt belongs to STM, which is none of the installed methods \(DMMNet, "),
    ]:
        with pytest.raises(error, match=line):
            load(str(tmp_path / name))
