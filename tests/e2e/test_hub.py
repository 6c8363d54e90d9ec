"""Models on the hub: downloads, the cache that is Python's, and everything that goes wrong on the way."""

import hashlib
import json
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import requests
from diffusers import AutoencoderKL
from hub import standing_in
from huggingface_hub import constants, hf_hub_download, scan_cache_dir
from place import ROOT, binary, clean_environment
from service import Service

WIDE = ROOT / "fixtures" / "vae" / "wide"
WEIGHTS = "diffusion_pytorch_model.safetensors"
REPO = "somebody/some-vae"


@pytest.fixture
def hub():
    with standing_in() as hub:
        hub.repos[REPO] = {name: (WIDE / name).read_bytes() for name in ("config.json", WEIGHTS)} | {"README.md": b"hi"}
        yield hub


@pytest.fixture
def home(tmp_path):
    latents = np.random.default_rng(0).standard_normal((1, 4, 3, 5)).astype(np.float16)
    np.save(tmp_path / "latents.npy", latents)
    return tmp_path


def environment(hub, home: Path, **extra: str) -> dict[str, str]:
    clean = {name: value for name, value in clean_environment().items() if not name.startswith(("HF_", "HUGGING"))}
    return clean | {"HF_HOME": str(home / "hf"), "HF_ENDPOINT": hub.url, "HOME": str(home)} | extra


def decode(hub, home: Path, source, status: int = 0, **extra: str):
    """Decodes with `remote-vae`; gives the pixels, or what it complained of."""
    command = [binary(), "decode", home / "latents.npy", "-o", home / "out.npy", "--model", source]
    result = subprocess.run(
        list(map(str, command)), env=environment(hub, home, **extra), capture_output=True, text=True, timeout=120
    )
    assert result.returncode == status, result.stderr
    return result.stderr if status else np.load(home / "out.npy")


def snapshot(home: Path, hub, repo: str = REPO) -> Path:
    return home / "hf" / "hub" / f"models--{repo.replace('/', '--')}" / "snapshots" / hub.commit(repo)


def test_a_model_is_downloaded_once(hub, home):
    expected = decode(hub, home, WIDE)
    assert np.array_equal(decode(hub, home, REPO), expected)
    # Nothing but what is needed, and the cache as Python lays it out.
    files = snapshot(home, hub)
    assert {path.name for path in files.iterdir()} == {"config.json", WEIGHTS}
    repo = files.parents[1]
    assert (repo / "refs" / "main").read_text() == hub.commit(REPO)
    content = hub.repos[REPO][WEIGHTS]
    blob = repo / "blobs" / hashlib.sha256(content).hexdigest()
    assert (files / WEIGHTS).is_symlink() and (files / WEIGHTS).resolve() == blob.resolve()
    assert blob.read_bytes() == content and len(list((repo / "blobs").iterdir())) == 2

    # From then on nobody is asked: not when it is there, not by a commit, not offline.
    hub.requests.clear()
    for source in (REPO, f"{REPO}@{hub.commit(REPO)}", f"{REPO}@main"):
        assert np.array_equal(decode(hub, home, source, HF_HUB_OFFLINE="1"), expected)
        assert np.array_equal(decode(hub, home, source), expected)
    assert hub.requests == []


def test_python_finds_what_was_downloaded(hub, home):
    hub.repos["somebody/pipeline"] = {f"vae/{name}": data for name, data in hub.repos[REPO].items()}
    decode(hub, home, "somebody/pipeline")
    cache = home / "hf" / "hub"
    vae = AutoencoderKL.from_pretrained("somebody/pipeline", subfolder="vae", cache_dir=cache, local_files_only=True)
    assert vae.config.norm_num_groups == 32
    report = scan_cache_dir(cache)
    (repo,) = report.repos
    (revision,) = repo.revisions
    assert not report.warnings
    assert (repo.repo_id, revision.refs, revision.nb_files) == ("somebody/pipeline", {"main"}, 2)


def test_what_python_downloaded_is_found(hub, home, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    for name in ("config.json", WEIGHTS):
        hf_hub_download(REPO, name, cache_dir=home / "hf" / "hub", endpoint=hub.url)
    asked = len(hub.requests)
    assert asked > 0
    assert np.array_equal(decode(hub, home, REPO), decode(hub, home, WIDE))
    assert len(hub.requests) == asked


def test_folders_files_revisions_and_new_names(hub, home):
    content = hub.repos[REPO]
    hub.repos["a/pipeline"] = {f"vae/{name}": data for name, data in content.items()} | {"config.json": b"{}"}
    hub.repos["a/deep"] = {f"x/y/{name}": data for name, data in content.items()}
    hub.repos["a/half"] = {"config.json": content["config.json"], WEIGHTS.replace(".saf", ".fp16.saf"): content[WEIGHTS]}
    hub.repos["a/file"] = {"files/vae.safetensors": content[WEIGHTS], "unet/config.json": b"{}"}
    hub.renamed["old/name"] = REPO
    expected = decode(hub, home, WIDE)
    for source in (
        "a/pipeline",
        "a/pipeline:vae",
        "a/deep:x/y",
        "a/half",
        "a/file:files/vae.safetensors",
        f"{REPO}@{hub.commit(REPO)}",
        "old/name",
    ):
        assert np.array_equal(decode(hub, home, source), expected), source
    assert hub.asked("HEAD", "resolve/main") == [], "all files are of one commit"


def test_a_cut_download_goes_on_where_it_ended(hub, home):
    size = len(hub.repos[REPO][WEIGHTS])
    hub.cuts = [100_000, 1, 0, 200_000]
    assert np.array_equal(decode(hub, home, REPO), decode(hub, home, WIDE))
    ranges = [request.range for request in hub.asked("GET", "/storage/")]
    assert ranges == [None, "bytes=100000-", "bytes=100001-", "bytes=100001-", "bytes=300001-"]
    assert size > 300_001


def test_a_hub_that_gives_up_is_tried_again_later(hub, home):
    hub.cuts = [100_000] + [0] * 5
    error = decode(hub, home, REPO, status=1)
    assert "100000 of" in error and "goes on from there" in error
    assert "signature" not in error
    (incomplete,) = snapshot(home, hub).parents[1].glob("blobs/*.incomplete")
    assert incomplete.stat().st_size == 100_000
    assert "not in the cache" in decode(hub, home, REPO, status=1, HF_HUB_OFFLINE="1")

    hub.cuts, hub.requests = [], []
    assert np.array_equal(decode(hub, home, REPO), decode(hub, home, WIDE))
    assert [request.range for request in hub.asked("GET", "/storage/")] == ["bytes=100000-"]
    assert not incomplete.exists()


def test_a_hub_without_ranges_begins_anew(hub, home):
    hub.cuts, hub.ranges = [100_000], False
    assert np.array_equal(decode(hub, home, REPO), decode(hub, home, WIDE))


def test_a_hub_that_is_unwell_for_a_moment(hub, home):
    hub.unwell = 2
    assert np.array_equal(decode(hub, home, REPO), decode(hub, home, WIDE))
    hub.unwell = 100
    assert "503" in decode(hub, home, "somebody/else", status=1)


def test_a_mirror_that_sends_questions_on_to_the_hub(hub, home):
    expected = decode(hub, home, WIDE)
    with standing_in() as mirror:
        mirror.repos = hub.repos
        mirror.sends_heads_to = hub.url
        assert np.array_equal(decode(mirror, home, REPO, HF_TOKEN="hf_of_the_mirror"), expected)
        assert mirror.asked("HEAD", "resolve") and hub.asked("HEAD", "resolve")
    # The mirror's token is not the hub's.
    assert {request.authorization for request in hub.requests} == {None}
    blob = home / "hf" / "hub" / f"models--{REPO.replace('/', '--')}" / "blobs"
    assert (blob / hashlib.sha256(hub.repos[REPO][WEIGHTS]).hexdigest()).exists(), "the hub names the content"


@pytest.mark.parametrize("form", ['W/"{}"', "{}", "", '"odd:{}"'])
def test_odd_etags(hub, home, form):
    hub.etag_form = form
    expected = decode(hub, home, WIDE)
    assert np.array_equal(decode(hub, home, REPO), expected)
    asked = len(hub.requests)
    assert np.array_equal(decode(hub, home, REPO), expected)
    assert len(hub.requests) == asked, "it is in the cache"


def test_a_part_that_does_not_say_which_is_fetched_anew(hub, home):
    hub.cuts, hub.content_range = [100_000], False
    assert np.array_equal(decode(hub, home, REPO), decode(hub, home, WIDE))
    assert [request.range for request in hub.asked("GET", "/storage/")] == [None, "bytes=100000-", None]


def test_other_files_of_the_hub(hub, home):
    """A pickle, shards by their index, and weights under another name, to which the repository's configuration belongs."""
    from safetensors.numpy import load, save

    content = hub.repos[REPO]
    tensors = load(content[WEIGHTS])
    names = sorted(tensors)
    shards = {"x-00001-of-00002.safetensors": names[::2], "x-00002-of-00002.safetensors": names[1::2]}
    index = {"weight_map": {name: shard for shard, names in shards.items() for name in names}}
    config = json.loads(content["config.json"]) | {"scaling_factor": 0.5}
    hub.repos["a/shards"] = {
        **{name: save({key: tensors[key] for key in keys}) for name, keys in shards.items()},
        "x.safetensors.index.json": json.dumps(index).encode(),
        "config.json": content["config.json"],
    }
    hub.repos["a/other"] = {"my_vae.safetensors": content[WEIGHTS], "config.json": json.dumps(config).encode()}
    expected = decode(hub, home, WIDE)
    assert np.array_equal(decode(hub, home, "a/shards:x.safetensors.index.json"), expected)
    half = decode(hub, home, f"{WIDE},scaling_factor=0.5")
    assert np.array_equal(decode(hub, home, "a/other:my_vae.safetensors"), half)
    # The folder of the cache itself is the model in it.
    cache = home / "hf" / "hub"
    assert np.array_equal(decode(hub, home, cache / f"models--{'a/other'.replace('/', '--')}"), half)


def test_pull(hub, home):
    def pull(*sources: str, **extra: str):
        command = [binary(), "pull", *sources]
        return subprocess.run(command, env=environment(hub, home, **extra), capture_output=True, text=True, timeout=60)

    size = len(hub.repos[REPO][WEIGHTS]) + len(hub.repos[REPO]["config.json"])
    done = pull(REPO)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{REPO}: {size / 2**20:.2f} MiB in 2 files, at "), done.stdout
    assert done.stdout.strip().endswith(str(snapshot(home, hub)))
    assert decode(hub, home, REPO, HF_HUB_OFFLINE="1").size
    # A newer version is fetched; offline, what is there is told of.
    hub.repos[REPO]["config.json"] = hub.repos[REPO]["config.json"] + b" "
    assert pull(REPO).stdout.strip().endswith(str(snapshot(home, hub)))
    offline = pull(REPO, HF_HUB_OFFLINE="1")
    assert offline.returncode == 1 and "earlier download" in offline.stderr and offline.stderr.count("\n") == 1
    unknown = pull("no/such")
    assert unknown.returncode == 1 and "no/such" in unknown.stderr


def test_damage_is_noticed(hub, home):
    hub.damage = 1
    error = decode(hub, home, REPO, status=1)
    assert "damaged" in error and hashlib.sha256(hub.repos[REPO][WEIGHTS]).hexdigest() in error
    blobs = snapshot(home, hub).parents[1] / "blobs"
    assert [path for path in blobs.iterdir() if path.name.endswith("incomplete")] == []

    # A part that lay there and is not of this file is not believed either.
    etag = hashlib.sha256(hub.repos[REPO][WEIGHTS]).hexdigest()
    for junk in (b"junk" * 1000, b"x" * (len(hub.repos[REPO][WEIGHTS]) + 7)):
        (blobs / f"{etag}.incomplete").write_bytes(junk)
        assert np.array_equal(decode(hub, home, REPO), decode(hub, home, WIDE))
        (blobs / etag).unlink()


def test_a_token_goes_to_the_hub_and_nowhere_else(hub, home):
    hub.private[REPO] = "hf_secret"
    error = decode(hub, home, REPO, status=1)
    assert REPO in error and "HF_TOKEN" in error
    error = decode(hub, home, REPO, status=1, HF_TOKEN="hf_wrong")
    assert REPO in error
    expected = decode(hub, home, WIDE)
    hub.requests.clear()
    assert np.array_equal(decode(hub, home, REPO, HF_TOKEN="hf_secret"), expected)
    assert {request.authorization for request in hub.requests if "/storage/" not in request.path} == {"Bearer hf_secret"}
    assert {request.authorization for request in hub.asked("GET", "/storage/")} == {None}

    hub.gated.add("some/gated")
    error = decode(hub, home, "some/gated", status=1)
    assert "accept" in error and f"{hub.url}/some/gated" in error


def test_mistakes(hub, home):
    hub.repos["a/unet"] = {"unet/config.json": b"{}"}
    for source, words in {
        "no/such": ["no/such", "no file or folder here"],
        f"{REPO}@nowhere": ["nowhere"],
        f"{REPO}:vae": [REPO, "PATH"],
        f"{REPO}:vae.safetensors": ["vae.safetensors"],
        "a/unet": ["a/unet", "no autoencoder"],
    }.items():
        error = decode(hub, home, source, status=1, **({"HF_TOKEN": "x"} if "no/" in source else {}))
        assert error.startswith("error: ") and error.count("\n") == 1, error
        assert all(word in error for word in words), error
    assert "not in the cache" in decode(hub, home, "no/such", status=1, HF_HUB_OFFLINE="1")
    assert "HF_ENDPOINT" in decode(hub, home, "no/such", status=1, HF_ENDPOINT="nonsense")
    # Names in an answer are not trusted: they become paths.
    hub.repos[REPO]["../../evil"] = b""
    assert "cannot be used" in decode(hub, home, REPO, status=1)
    assert not (home / "hf" / "hub" / "evil").exists()


def test_a_killed_download_goes_on(hub, home):
    hub.halt = 300_000
    command = [binary(), "decode", home / "latents.npy", "--model", REPO, "-o", home / "out.npy"]
    process = subprocess.Popen(list(map(str, command)), env=environment(hub, home))
    blobs = snapshot(home, hub).parents[1] / "blobs"
    end = time.monotonic() + 60
    while not any(path.stat().st_size == 300_000 for path in blobs.glob("*.incomplete")):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    hub.halt = None
    assert np.array_equal(decode(hub, home, REPO), decode(hub, home, WIDE))
    assert hub.asked("GET", "/storage/")[-1].range == "bytes=300000-"


def test_three_at_once_download_once(hub, home):
    expected = decode(hub, home, WIDE)
    command = [binary(), "decode", home / "latents.npy", "--model", REPO, "-o"]
    processes = [
        subprocess.Popen([*map(str, command), str(home / f"{name}.npy")], env=environment(hub, home))
        for name in "abc"
    ]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    for name in "abc":
        assert np.array_equal(np.load(home / f"{name}.npy"), expected)
    assert len(hub.asked("GET", "/storage/")) == 1


# Each name -> its repository, the folder in it, a small model of the same family, and the factors that the name stands for.
PRESETS = {
    "sd-v1": ("stabilityai/sd-vae-ft-mse", "", "sd-like", "scaling_factor=0.18215"),
    "sdxl": ("madebyollin/sdxl-vae-fp16-fix", "", "sd-like", "scaling_factor=0.13025"),
    "flux": ("black-forest-labs/FLUX.1-schnell", "vae/", "flux-like", "scaling_factor=0.3611,shift_factor=0.1159"),
    "hunyuan-video": ("hunyuanvideo-community/HunyuanVideo", "vae/", "video", "scaling_factor=0.476986"),
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_gives_the_bits_of_its_folder(hub, home, name):
    """By its name, by the id that it stands for, and from a folder with the same factors."""
    repo, prefix, fixture, factors = PRESETS[name]
    folder = ROOT / "fixtures" / "vae" / fixture
    hub.add(repo, folder, prefix)
    config = json.loads((folder / "config.json").read_text())
    shape = (1, config.get("latent_channels", 4), *((2,) if name == "hunyuan-video" else ()), 3, 5)
    np.save(home / "latents.npy", np.random.default_rng(1).standard_normal(shape).astype(np.float16))
    expected = decode(hub, home, f"{folder},{factors}")
    assert expected.std() > 0.01
    assert np.array_equal(decode(hub, home, name), expected)
    assert np.array_equal(decode(hub, home, f"{repo}{f':{prefix[:-1]}' if prefix else ''},{factors}"), expected)
    # The factors are those: with others it is another picture.
    other = factors.replace("scaling_factor=0.", "scaling_factor=1.")
    assert not np.array_equal(decode(hub, home, f"{folder},{other}"), expected)


def test_a_preset_is_served_with_its_factors(hub, home):
    """The preset's files are stood in for; its name, its factors and what the server says of it are real."""
    hub.repos["madebyollin/sdxl-vae-fp16-fix"] = hub.repos[REPO]
    listed = json.loads(
        subprocess.run([binary(), "models", "--json"], env=environment(hub, home), check=True, capture_output=True).stdout
    )
    presets = {model["name"]: model for model in listed["models"]}
    assert {"sd-v1", "sdxl", "flux", "demo"} <= presets.keys()
    assert presets["flux"]["scaling_factor"] == pytest.approx(0.3611)
    assert presets["flux"]["shift_factor"] == pytest.approx(0.1159)
    assert not presets["sdxl"]["here"] and presets["demo"]["here"]

    # A download does not keep the server from saying that it lives.
    service = Service(["--model", "sdxl", "--model", f"x={WIDE}"], home / "log", **environment(hub, home))
    try:
        service.wait_until_ready()
        first, second = requests.get(f"{service.url}/models", timeout=10).json()["models"]
        assert (first["name"], first["license"]) == ("sdxl", "MIT")
        assert first["source"] == "madebyollin/sdxl-vae-fp16-fix"
        assert first["scaling_factor"] == pytest.approx(0.13025)
        assert "source" not in second, "where things are on this machine is nobody's business"
    finally:
        service.stop()
    table = subprocess.run([binary(), "models"], env=environment(hub, home), check=True, capture_output=True, text=True)
    (line,) = [line for line in table.stdout.splitlines() if line.startswith("sdxl ")]
    assert "MIT" in line and line.endswith("yes")
