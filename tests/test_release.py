"""Networks that are released: written by one command, and taken by their names wherever a checkpoint is."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

import pytest
import torch
from conftest import METHODS, SMALL, small
from network_files import CARD, altered, checkpoint_of, write_network
from tiny_runs import commands, started, tiny, write_tiny_demo

from experiments.compose import Experiment, predict
from lightning_vos import checksum, load, networks, release
from lightning_vos.average import averaged
from lightning_vos.checkpoint import load_weights, read_checkpoint
from lightning_vos.compare.records import run_names
from lightning_vos.model_card import FACTS, card, read_scores
from lightning_vos.network_file import decoded, halved

WORDS = [f"--{name}=the {name}" for name in FACTS]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where released networks are, none so far; the working directory is another."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(networks, "FOLDER", tmp_path / "networks")
    return tmp_path / "networks"


def trained(folder: Path, method: str, scored: bool = True) -> Path:
    """A last checkpoint in the folder of its stage, with the scores of the validation after it."""
    path = folder / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    checksum.save(checkpoint_of(small(method)), path)
    os.utime(path, (1e9, 1e9))
    if scored:
        write_scores(folder)
    return path


def write_scores(folder: Path) -> Path:
    results = folder / "results"
    results.mkdir(parents=True)
    (results / "global_results-val.csv").write_text("J&F-Mean,J-Mean,F-Mean\n0.500000,0.400000,0.600000\n")
    rows = ["bear_1,0.300000,0.500000", "two_dogs_1,0.400000,0.600000", "two_dogs_2,0.500000,0.700000"]
    (results / "per-sequence_results-val.csv").write_text("\n".join(["Sequence,J-Mean,F-Mean", *rows, ""]))
    return folder


# ---------------------------------------------------------------- writing


@pytest.mark.parametrize("method", METHODS)
def test_the_command_writes_a_network_and_its_card(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(release, "LARGEST", 2**30)
    checkpoint, network = trained(tmp_path / "run", method), tmp_path / "out" / "mine.safetensors"
    release.main([str(checkpoint), str(network), *WORDS])
    assert capsys.readouterr().out == f"{network}: {network.stat().st_size / 1e6:.1f} MB, and its model card\n"
    assert sorted(path.name for path in network.parent.iterdir()) == ["mine.md", "mine.safetensors"]
    weights = small(method).state_dict()
    for name, value in load(str(network)).state_dict().items():
        assert torch.equal(value, weights[name].half().float()), name
    text = network.with_suffix(".md").read_text()
    assert text == card("mine", decoded(network), network.read_bytes())
    assert text.startswith(f"# mine\n\n{method}, ")
    for line in ("| data | the data |", "| mean over objects | 50.0 | 40.0 | 60.0 |", "| two_dogs | 55.0 |"):
        assert line in text.splitlines()
    assert "\n## Limits\n\nthe limits\n" in text


def test_statistics_of_batch_norms_stay_as_they_are(tmp_path: Path) -> None:
    checkpoint, network = tmp_path / "a.ckpt", tmp_path / "a.safetensors"
    model = small("SiamDyn", norm="frozen_batch")
    statistics = {name for name, _ in model.named_buffers() if name.endswith("running_var")}
    for name in statistics:
        model.state_dict()[name].uniform_(1e-7, 1e-6)
    assert statistics
    checksum.save(checkpoint_of(model), checkpoint)
    release.release(str(checkpoint), network, dict.fromkeys(FACTS, "x"), write_scores(tmp_path / "eval"))
    read = read_checkpoint(str(network))["state_dict"]
    assert all(torch.equal(read[name], model.state_dict()[name]) for name in statistics)


def test_a_network_is_written_again_with_other_facts(tmp_path: Path) -> None:
    first, second = write_network(tmp_path / "a.safetensors", "SiamDyn"), tmp_path / "b.safetensors"
    release.release(str(first), second, {"limits": "none\nknown"}, write_scores(tmp_path / "eval"))
    before, after = decoded(first), decoded(second)
    assert after["card"] == {**before["card"], "limits": "none known", "scores": read_scores(tmp_path / "eval")}
    assert all(torch.equal(value, after["state_dict"][name]) for name, value in before["state_dict"].items())


def test_what_is_not_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = str(trained(tmp_path / "run", "SiamDyn"))
    unscored = str(trained(tmp_path / "other", "SiamDyn", scored=False))
    (tmp_path / "broken" / "results").mkdir(parents=True)
    for name in ("global", "per-sequence"):
        (tmp_path / "broken" / "results" / f"{name}_results-val.csv").write_text("J\n1\n")
    network = tmp_path / "out" / "mine.safetensors"
    network.parent.mkdir()
    network.write_text("what was there")
    for words, line in [
        ([checkpoint, str(network), *WORDS[1:]], r"data not given; a model card says them: --data=\.\.\."),
        ([checkpoint, f"{tmp_path}/mine.bin", *WORDS], r"mine.bin: not the name of a network's file"),
        ([checkpoint, f"{tmp_path}/mine.v2.safetensors", *WORDS], "with no other dot"),
        ([unscored, str(network), *WORDS], "no scores of it found; evaluate it"),
        ([checkpoint, str(network), *WORDS, "--results=none"], r"none/\S+.csv: no such file; give the folder of an"),
        ([checkpoint, str(network), *WORDS, f"--results={tmp_path}/broken"], "its tables are not those of an evalu"),
        ([f"{tmp_path}/lost.ckpt", str(network), *WORDS], r"lost.ckpt: no such file"),
    ]:
        with pytest.raises((ValueError, FileNotFoundError), match=line):
            release.main(words)
    monkeypatch.setattr(release, "LARGEST", 2**20)
    with pytest.raises(ValueError, match=r"would take \d\.\d MB, and a released network at most 1; train a smaller"):
        release.main([checkpoint, str(network), *WORDS])
    monkeypatch.setattr(release, "LARGEST", 2**30)
    monkeypatch.setattr(release, "encoded", lambda *_: altered_copy(checkpoint, tmp_path))
    with pytest.raises(ValueError, match=r"mine.safetensors: not written, what was read back differs in \S+; try"):
        release.main([checkpoint, str(network), *WORDS])
    assert network.read_text() == "what was there"
    assert [path.name for path in network.parent.iterdir()] == ["mine.safetensors"]


def altered_copy(checkpoint: str, folder: Path) -> bytes:
    """The file with one weight of another value."""
    weights = read_checkpoint(checkpoint)["state_dict"]
    name = next(iter(weights))
    source = write_network(folder / "source.safetensors", "SiamDyn")
    return altered(source, folder / "x.safetensors", **{name.replace(".", "__"): weights[name] + 1}).read_bytes()


@pytest.mark.parametrize("name", sorted(networks.released()) or ["none is released"])
def test_a_network_of_the_package_is_what_its_card_says(name: str) -> None:
    if name not in networks.released():
        pytest.skip(name)
    file = networks.released()[name]
    assert file.stat().st_size <= release.LARGEST
    assert type(load(name)).__name__.lower() == f"{name.partition('-')[0].replace('_', '')}segmenter"
    assert file.with_suffix(".md").read_text() == card(name, decoded(file), file.read_bytes())


# ---------------------------------------------------------------- names


def test_a_name_is_no_path(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FileNotFoundError, match=r"^remn: no released network of this name; released are: none$"):
        load("remn")
    for name, method in (("remn", "REMN"), ("siam_dyn", "SiamDyn")):
        write_network(folder / f"{name}.safetensors", method)
    with pytest.raises(FileNotFoundError, match=r"^hmmn: no released .*; released are: remn, siam_dyn$"):
        load("hmmn")
    Path("siam_dyn").write_text("of the user")
    Path("notes").write_text("of the user")
    assert type(load("siam_dyn")).__name__ == "SiamDynSegmenter"
    with pytest.raises(ValueError, match=r"^./siam_dyn: cannot be read as a checkpoint"):
        load("./siam_dyn")
    with pytest.raises(FileNotFoundError, match=r"^notes: no released .*; the file of this name here is ./notes$"):
        load("notes")
    with pytest.raises(FileNotFoundError, match=r"^remn.safetensors: no such file; give a checkpoint"):
        load("remn.safetensors")
    assert load("remn", top_k=3).bank.top_k == 3


def test_names_stand_for_checkpoints(folder: Path) -> None:
    file = write_network(folder / "remn.safetensors", "REMN")
    assert run_names(["remn", "mine=remn"]) == {"remn": file, "mine": file}
    mean = averaged(["remn", "remn"])
    assert mean.hparams == small("REMN").hparams
    model = small("REMN", seed=1)
    load_weights(model, "remn")
    for name, value in halved(small("REMN").state_dict()).items():
        assert torch.equal(model.state_dict()[name], value.float())
        assert torch.equal(mean.state_dict()[name], value.float())


def test_predict_takes_the_released_network_of_the_method(folder: Path) -> None:
    e = Experiment(method="siam_dyn", runs="runs")
    last = Path("runs/siam_dyn-demo/video/checkpoints/last.ckpt")
    last.parent.mkdir(parents=True)
    last.touch()
    for checkpoint, released, expected in (("", (), last), ("", ("siam_dyn",), "siam_dyn"), ("a.ckpt", (), "a.ckpt")):
        for name in released:
            write_network(folder / f"{name}.safetensors", "SiamDyn")
        words = predict(dataclasses.replace(e, checkpoint=checkpoint), "a.mp4", "m.png", "out").words
        assert f"--ckpt_path={expected}" in words


# ---------------------------------------------------------------- the command line


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_demo(tmp_path_factory.mktemp("data"))


def test_an_evaluation_by_name_is_that_of_the_rounded_checkpoint(folder: Path, demo: Path, tmp_path: Path) -> None:
    write_network(folder / "siam_dyn.safetensors", "SiamDyn")
    checkpoint = checkpoint_of(small("SiamDyn"))
    checkpoint["state_dict"] = {name: value.float() for name, value in halved(checkpoint["state_dict"]).items()}
    checksum.save({**checkpoint, "pytorch-lightning_version": "2.6.6"}, tmp_path / "rounded.ckpt")
    scores = []
    for given in ("siam_dyn", f"{tmp_path}/rounded.ckpt"):
        (command,) = commands("eval", "METHOD=siam_dyn", "DATA=demo", f"CKPT={given}")
        assert f"--ckpt_path={given}" in command
        cli, _ = started([*command, *tiny(demo, tmp_path / "out")])
        assert cli.model.hparams["dim"] == SMALL["SiamDyn"]["dim"]
        scores.append(read_scores(tmp_path / "out"))
    assert scores[0] == scores[1]
    assert len(scores[0]["sequences"]) == 3


@pytest.mark.parametrize(
    ("stage", "option", "line"),
    [
        (
            "eval",
            "--ckpt_path=hmmn",
            r"--ckpt_path=hmmn: no released network .*; released are: siam_dyn, wrong",
        ),
        (
            "eval",
            "--ckpt_path=siam_dyn",
            r"--ckpt_path=siam_dyn: a checkpoint of SiamDyn, but \S+ asks for .*REMN; .*",
        ),
        (
            "eval",
            "--ckpt_path=wrong",
            r"wrong: REMN has no setting colour, with which it was trained; .*",
        ),
        ("static", "--model.weights=hmmn", r"--model.weights=hmmn: no released network of this name; .*"),
        ("static", "--model.weights=siam_dyn", r"--model.weights=siam_dyn belongs to SiamDyn, not to REMN: .*"),
        ("static", "--ckpt_path=wrong", r"\S+wrong.safetensors: a network without its run, which cannot go on; .*"),
    ],
)
def test_mistakes_of_the_command_line(
    stage: str, option: str, line: str, folder: Path, demo: Path, tmp_path: Path
) -> None:
    write_network(folder / "siam_dyn.safetensors", "SiamDyn")
    source = write_network(tmp_path / "remn.safetensors", "REMN")
    altered(source, folder / "wrong.safetensors", {"settings": {**decoded(source)["settings"], "colour": 3}})
    (command,) = commands(stage, "METHOD=remn", "DATA=demo")
    sizes = [f"--model.{name}={'null' if value is None else value}" for name, value in SMALL["REMN"].items()]
    words = [*command, *(sizes if stage == "static" else []), *tiny(demo, tmp_path / "out"), option]
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        started(words)
    assert re.fullmatch(line, str(error.value))
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_the_card_of_the_tests_has_every_fact() -> None:
    assert CARD.keys() == {*FACTS, "scores"}
