"""Two processes over gloo train, draw and score as one does.

The file is also the program that each of the two processes runs.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor

from rap import log
from rap.config import (
    BatchNorm,
    Config,
    ConfigError,
    ImageConfig,
    LossWeights,
    ModelConfig,
    TrainConfig,
    ViewsConfig,
)
from rap.data.room import RoomSpec, make
from rap.evaluate import Streamed, predict, stream
from rap.model.regressor import build_regressor
from rap.scene import Scene
from rap.splat.gaussians import Gaussians
from rap.train import launch as launching
from rap.train.banks import draw_views, prepare
from rap.train.distributed import (
    RankError,
    Ranks,
    current,
    own_batches,
    predict_shared,
    stream_shared,
)
from rap.train.launch import joined
from rap.train.loop import train
from tests.processes import PATIENCE_S

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
ROUNDING = 1e-5
"""Of losses over six steps: two processes add in another order than one."""
ON_GPUS = 1e-3
"""Of losses over six steps: compiled kernels and atomic sums round differently."""
LIVE = 0.02
"""Of pose losses with live BatchNorm: statistics of half a batch are other statistics."""


def some_scene() -> Scene:
    """Ten small photographs of the room and two test frames."""
    return make(RoomSpec(seed=3, num_train=10, num_test=2, width=64, height=48))


def some_splat() -> Gaussians:
    """A cloud that fills the views with something."""
    generator = torch.Generator().manual_seed(1)
    num = 150
    quats = torch.zeros(num, 4)
    quats[:, 0] = 1
    return Gaussians(
        means=4 * torch.rand(num, 3, generator=generator) - 2,
        quats=quats,
        log_scales=torch.full((num, 3), -1.8),
        opacity_logits=torch.full((num,), 2.0),
        sh=torch.rand(num, 1, 3, generator=generator),
    )


def some_config(batch_norm: BatchNorm) -> Config:
    """Terms that do not compare images with each other; no dropout, which each rank draws anew."""
    return Config(
        image=ImageConfig(height=48, num_workers=0),
        model=ModelConfig(
            width=0.25, dim=32, heads=2, layers=1, feedforward=32, head_hidden=32, dropout=0.0,
            drop_connect=0.0, feature_dim=16, batch_norm=batch_norm,
        ),
        views=ViewsConfig(min_coverage=0.95, max_attempts=3),
        weights=LossWeights(rendered=1.0, feature=1.0),
        train=TrainConfig(
            epochs=3, batch_size=4, learning_rate=1e-3, validation_fraction=0.2,
            feature_loss="mse", grad_clip=1.0, ema_decay=0.9, augment=1.0, augment_vignette=0.3,
        ),
    )  # fmt: skip


def streamed_config() -> Config:
    """Live BatchNorm, a discriminator, and three views drawn beside each step."""
    config = some_config("live")
    return replace(
        config, views=replace(config.views, stream_per_step=3),
        weights=replace(config.weights, adversarial=0.7),
        train=replace(config.train, epochs=2),
    )  # fmt: skip


def banks_of(config: Config) -> dict[str, Tensor]:
    """Renderings and views of a run's first epoch, and the views after five streamed steps."""
    material = prepare(some_scene(), some_splat(), config, CPU)
    stats = draw_views(material, config, 0)
    rendered, views = material.banks.rendered, material.banks.views
    assert rendered is not None
    assert views is not None
    assert stats is not None
    counts = [stats.num_views, stats.num_renders, stats.num_below_filter, stats.num_attempts]
    found = {
        "rendered": rendered.images, "views": views.images.clone(), "poses": views.poses.clone(),
        "stats": torch.tensor(counts),
    }  # fmt: skip
    assert material.stream is not None
    for step in range(5):
        material.stream.advance(step, seed=step)
    return found | {"streamed": views.images, "streamed_poses": views.poses}


def scored_images() -> tuple[torch.nn.Module, Tensor]:
    """A network and seven images that it can be asked about."""
    images = torch.randint(
        0, 256, (7, 3, 48, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return build_regressor(some_config("live").model, 0), images


def averaged() -> list[Tensor]:
    """Gradients and running means of a network whose ranks have seen different things."""
    ranks = current()
    network = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3))
    torch.nn.utils.convert_conv2d_weight_memory_format(network, torch.channels_last)
    unused = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([*network.parameters(), unused], lr=1.0)
    for parameter in network.parameters():
        values = torch.arange(parameter.numel()).view(parameter.shape) * (1.0 + 2 * ranks.rank)
        parameter.grad = torch.empty_like(parameter).copy_(values)
    norm = network[1]
    assert isinstance(norm, torch.nn.BatchNorm2d)
    assert norm.running_mean is not None
    norm.running_mean.fill_(ranks.rank)
    ranks.average_gradients(optimizer, network)
    assert unused.grad is None
    gradients = [parameter.grad for parameter in network.parameters()]
    return [*(gradient for gradient in gradients if gradient is not None), norm.running_mean]


def streamed_poses(streaming: Callable[..., Streamed]) -> Tensor:
    """Poses of the ten photographs, four at a time."""
    network, _ = scored_images()
    network.eval()

    @torch.no_grad()
    def locate(images: Tensor) -> Tensor:
        return network(images.float() / 255).world_from_camera

    scene = some_scene()
    camera = scene.camera.with_height(48)
    return streaming(scene.train, camera, locate, CPU, batch_size=4, num_workers=0).poses


def who_differs() -> str:
    """What a rank is told whose text is not that of rank 0."""
    ranks = current()
    ranks.check_same("a text", "the same")
    try:
        ranks.check_same("a text", f"of rank {ranks.rank}")
    except RankError as error:
        return str(error)
    return ""


def on_gpus(out: Path) -> None:
    """What each of two processes with a GPU does."""
    with joined("cuda", "advice") as device:
        assert device == f"cuda:{current().rank}"
        for execution in ("eager", "graphed"):
            config = some_config("calibrated")
            config = replace(config, train=replace(config.train, execution=execution))
            train(some_scene(), some_splat(), config, out / execution, torch.device(device))


def on_cpus(out: Path) -> None:
    """What each of two processes without one does."""
    torch.set_num_threads(1)
    with joined("cpu", "advice") as device:
        assert device == "cpu"
        rank = current().rank
        (out / f"told{rank}").write_text(who_differs())
        torch.save(streamed_poses(stream_shared), out / f"streamed{rank}.pt")
        torch.save(averaged(), out / f"averaged{rank}.pt")
        torch.save(banks_of(streamed_config()), out / f"banks{rank}.pt")
        torch.save(predict_shared(*scored_images(), CPU, batch_size=2), out / f"poses{rank}.pt")
        for name, config in (("exact", some_config("calibrated")), ("live", streamed_config())):
            train(some_scene(), some_splat(), config, out / name, CPU)


def run_ranks(num: int, *command: str) -> list[str]:
    """What so many processes with torchrun's environment said; AssertionError where one fails.

    We keep the store, as torchrun does: a free port for a rank may be another's when it listens.
    """
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    place = {
        "WORLD_SIZE": str(num), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, text=True, stderr=subprocess.PIPE,
            env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(num)
    ]  # fmt: skip
    said = [process.communicate(timeout=PATIENCE_S)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * num, said
    return said


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes have done their work."""
    out = tmp_path_factory.mktemp("together")
    said = run_ranks(2, str(Path(__file__)), "cpu", str(out))
    assert "together over gloo" in said[0]
    assert "together over gloo" not in said[1]
    return out


def losses(run: Path) -> Tensor:
    """Every loss of every epoch, epochs first."""
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    names = sorted(name for name in records[0] if name.startswith("loss_"))
    return torch.tensor([[record[name] for name in names] for record in records])


def test_the_same_seed_trains_to_the_same_loss(together: Path, tmp_path: Path) -> None:
    """With the same global batch: losses, scores and weights agree but for rounding."""
    train(some_scene(), some_splat(), some_config("calibrated"), tmp_path / "alone", CPU)
    one, two = losses(tmp_path / "alone"), losses(together / "exact")
    assert one.shape == (3, 4)
    torch.testing.assert_close(two, one, rtol=ROUNDING, atol=0)
    a = load_file(tmp_path / "alone" / "last.safetensors")
    b = load_file(together / "exact" / "last.safetensors")
    assert a.keys() == b.keys()
    for name, weights in a.items():
        # A bias of all keys changes no attention: its gradient is rounding, which Adam enlarges.
        if not name.endswith("qkv.bias"):
            torch.testing.assert_close(b[name], weights, rtol=1e-3, atol=1e-5)


def test_live_statistics_differ_little(together: Path, tmp_path: Path) -> None:
    """Each process normalises by its part's statistics; the views are streamed by both."""
    train(some_scene(), some_splat(), streamed_config(), tmp_path / "alone", CPU)
    one, two = losses(tmp_path / "alone"), losses(together / "live")
    of_poses = slice(2, None)
    torch.testing.assert_close(two[:, of_poses], one[:, of_poses], rtol=LIVE, atol=0)
    for run in (together / "live", tmp_path / "alone"):
        record = json.loads((run / "log.jsonl").read_text().splitlines()[1])
        assert record["views_streamed"] == 6


def test_gradients_and_running_statistics_are_averaged(together: Path) -> None:
    """Both ranks hold the mean of theirs; what has no gradient is left out."""
    for rank in range(2):
        *gradients, mean = torch.load(together / f"averaged{rank}.pt", weights_only=True)
        assert len(gradients) == 4
        for gradient in gradients:
            expected = 2.0 * torch.arange(gradient.numel()).view(gradient.shape)
            assert torch.equal(gradient, expected)
        assert mean.tolist() == [0.5, 0.5, 0.5]


def test_each_draws_its_share_of_the_same_views(together: Path) -> None:
    """All banks are bit for bit those of a single process, rejected views included."""
    alone = banks_of(streamed_config())
    assert alone["stats"][1] > alone["stats"][0], "no view was drawn twice"
    assert not torch.equal(alone["streamed"], alone["views"]), "no view was streamed"
    for rank in range(2):
        theirs = torch.load(together / f"banks{rank}.pt", weights_only=True)
        assert all(torch.equal(theirs[name], values) for name, values in alone.items())


def test_sharing_predictions_changes_no_bit(together: Path) -> None:
    """Whole batches are shared, and the poses come back in the order of the images."""
    alone = predict(*scored_images(), CPU, batch_size=2)
    for rank in range(2):
        assert torch.equal(torch.load(together / f"poses{rank}.pt", weights_only=True), alone)


def test_one_process_writes_the_files(together: Path) -> None:
    """A run of two looks like a run of one, each epoch logged once."""
    names = {path.name for path in (together / "exact").iterdir()}
    assert names == {
        "best.safetensors", "last.safetensors", "state.pt", "config.toml", "log.jsonl",
    }  # fmt: skip
    assert len((together / "exact" / "log.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(("num", "world"), [(7, 2), (1, 4), (0, 2), (16, 3), (64, 1)])
def test_every_batch_falls_to_one_rank(num: int, world: int) -> None:
    """Nothing is lost or scored twice, and only the last batch may be short."""
    batches = [batch for rank in range(world) for batch in own_batches(num, 2, rank, world)]
    assert sorted(index for batch in batches for index in batch) == list(range(num))
    assert all(len(batch) == 2 or batch.stop == num for batch in batches)


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    """The message gives the number that the batch must be a multiple of."""
    config = some_config("live")
    assert Ranks(1, 2).local(config).train.batch_size == 2
    with pytest.raises(ConfigError, match=r"train\.batch_size = 4 .* multiple of 3"):
        Ranks(0, 3).local(config)
    split = replace(config, train=replace(config.train, micro_batches=4))
    with pytest.raises(ConfigError, match="multiple of 8"):
        Ranks(0, 2).local(split)


def test_only_one_thread_of_a_rank_tells_of_a_failure() -> None:
    """An ended rank is met by the exchange and by the signal; the second must not silence both."""
    voice = launching._Voice(dist.HashStore())
    try:
        assert voice.take()
        assert not voice.take()
        assert not log.console.quiet
    finally:
        log.console.quiet = False


def test_half_an_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """WORLD_SIZE alone, left by something else, is named with the way out."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match=r"RANK.*is not set"), joined("cpu", ""):
        pass


def test_a_run_of_two_goes_on_alone(together: Path) -> None:
    """How many processes there are is no part of a run."""
    run = together / "exact"
    before = (run / "last.safetensors").read_bytes()
    train(some_scene(), some_splat(), some_config("calibrated"), run, CPU, resume=True)
    assert (run / "last.safetensors").read_bytes() == before


def test_streaming_from_files_is_shared_as_well(together: Path) -> None:
    """`rap eval` under torchrun scores the very poses that it scores alone."""
    alone = streamed_poses(stream)
    for rank in range(2):
        assert torch.equal(torch.load(together / f"streamed{rank}.pt", weights_only=True), alone)


def test_ranks_that_differ_are_found(together: Path) -> None:
    """The one whose data are not rank 0's says which data."""
    assert (together / "told0").read_text() == ""
    assert (together / "told1").read_text() == "rank 1 of 2 has a text other than rank 0's"


@pytest.mark.cuda
def test_on_gpus_gradients_are_averaged_inside_the_recording(tmp_path: Path) -> None:
    """Two GPUs train as one does, step by step or as one recorded graph over NCCL."""
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two NVIDIA GPUs")
    said = run_ranks(2, str(Path(__file__)), "cuda", str(tmp_path))
    assert "together over nccl" in said[0]
    assert "so steps run" not in said[0]
    alone = torch.device("cuda")
    train(some_scene(), some_splat(), some_config("calibrated"), tmp_path / "alone", alone)
    for execution in ("eager", "graphed"):
        torch.testing.assert_close(
            losses(tmp_path / execution), losses(tmp_path / "alone"), rtol=ON_GPUS, atol=0
        )


if __name__ == "__main__":
    {"cpu": on_cpus, "cuda": on_gpus}[sys.argv[1]](Path(sys.argv[2]))
