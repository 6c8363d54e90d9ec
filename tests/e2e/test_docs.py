"""The commands and the code in the documentation work as printed, in a fresh clone, and print what is printed there.

Each page is typed from its top to its end into one shell. What cannot run here stands in NOT_RUN with the reason, and is
checked as far as it can be: its syntax, and the flags of `remote-vae`.
"""

import functools
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from docs_blocks import Block, Shell, blocks, fresh_clone, is_shown, masked, pages, without_log
from hub import standing_in
from models import FLUX, NARROW_VIDEO, SD_V1, SDXL
from PIL import UnidentifiedImageError
from place import ROOT, binary, clean_environment
from safetensors.torch import load_file, save_file
from service import Service
from test_single_file import original
from tiny_pipelines import stable_diffusion

HUB = "it downloads from the hub"
ROOT_RIGHTS = "it needs root"
DOCKER = "it needs Docker"
LONG = "it takes minutes or longer"
ELSEWHERE = "another test runs it: "
MACHINE = "it needs a second machine, or changes this one"

# By page, the beginnings of commands, or of other blocks, that are not run, and why.
NOT_RUN = {
    "README.md": {
        "cargo run --release -- quickstart": ELSEWHERE + "test_readme.py, in another folder",
        "./test": "it is what runs this test",
        "target/release/remote-vae serve sd-v1": HUB,
        "target/release/remote-vae serve sdxl=": ELSEWHERE + "test_readme.py, with a checkpoint",
    },
    "kernels.md": {"rustup component add": LONG, "MIRIFLAGS=": LONG},
    "bad-inputs.md": {"remote-vae serve --max-pixels": ELSEWHERE + "test_bad_inputs.py"},
    "deploying.md": {
        "cargo build --profile dist && sudo install": ROOT_RIGHTS,
        "sudo ": ROOT_RIGHTS,
        "docker ": DOCKER,
        "ls /repository": ROOT_RIGHTS,
        "curl -s localhost:8080/health": ROOT_RIGHTS,
        "head -c 8192 /dev/zero": ROOT_RIGHTS,
        "curl -gs -o picture.png": ROOT_RIGHTS,
    },
    "models.md": {
        "remote-vae serve --model ernie=": HUB,
        "remote-vae serve --model sdxl --model taesdxl": HUB,
    },
    "operating.md": {
        "cargo build --release": ELSEWHERE + "./test builds it, with the feature otel too",
        "remote-vae health --ready": "it is the moment in which a model is loaded; another test runs it: test_service.py",
        "OTEL_EXPORTER_OTLP_ENDPOINT": ELSEWHERE + "crates/cli/tests/otel.rs",
        "cargo test -p remote-vae --features otel": ELSEWHERE + "./test",
        "~/.cache/remote-vae/venv/bin/python bench/load.py": LONG,
        "python bench/soak.py": LONG,
    },
    "python.md": {"pip install ./python": ELSEWHERE + "tests/python/test_wheel.py"},
    "queue.md": {
        "cargo run --release -p remote-vae-client --example overlap": LONG,
        "let (queue, pictures)": ELSEWHERE + "it is a part of crates/client/examples/decode_queue.rs",
    },
    "security.md": {"cargo test -p remote-vae-server": ELSEWHERE + "./test"},
    "serve-a-checkpoint.md": {
        "remote-vae serve --port 8191": ELSEWHERE + "test_the_log_of_models, with a stand-in for the hub",
        "remote-vae serve --model stabilityai": ELSEWHERE + "test_the_log_of_models, with a stand-in for the hub",
        "remote-vae serve --model sdxl=./sdxl_vae.safetensors": ELSEWHERE + "test_single_file.py",
        "remote-vae serve --model ./ltx-vae.safetensors": ELSEWHERE + "test_what_is_said_of_other_models",
        "remote-vae pull stabilityai": HUB + "; another test runs it: test_hub.py",
        "20": "a line of the log that test_the_log_of_models looks for",
    },
    "two-machines.md": {"sudo ": MACHINE, "ssh ": MACHINE},
    "uis.md": {"remote-vae serve --host 0.0.0.0 --model sd=sd-v1": HUB},
    "video.md": {
        "python bench/video.py": LONG,
        "python tools/compare_mp4.py": LONG,
    },
}
# Blocks in these languages are no commands: drawings, lines of a log, configurations.
NO_COMMANDS = {"text", "json", "toml", "yaml", "nginx", "ini", "caddyfile", "haproxy", "rust", "ts", "js"}
# A flag of the program, and not of the one that a command pipes into.
FLAG = re.compile(r"(?<=\s)--[a-z][a-z-]*")


def reason(page: str, text: str) -> str | None:
    return next((why for start, why in NOT_RUN.get(page, {}).items() if text.startswith(start)), None)


def check_flags(command: str) -> None:
    """The flags in the commands of `remote-vae` exist."""
    for part in re.split(r"[|;&]+|\$\(", command.replace("\\\n", " ")):
        found = re.search(r"(?:^|[\s/])remote-vae ([a-z]+)((?:\s.*)?)$", part, re.S)
        if not found or found[1] not in COMMANDS:
            continue
        help_text = said_by_help(found[1])
        for flag in FLAG.findall(" " + found[2].partition(" # ")[0]):
            assert re.search(rf"{flag}\b", help_text), f"`remote-vae {found[1]}` has no {flag}: {command}"


@functools.cache
def said_by_help(command: str) -> str:
    return subprocess.check_output([binary(), command, "--help"], text=True)


COMMANDS = {"serve", "decode", "encode", "roundtrip", "bench", "models", "config", "quickstart", "health", "pull"}


def prepare(page: str, folder) -> None:
    """What the page says is there when its commands begin."""
    match page:
        case "operating.md":
            # As the page shows it.
            (shown,) = [shown for block in blocks(ROOT / "docs" / page) for command, shown in block.commands if command == "cat remote-vae.toml\n"]
            (folder / "remote-vae.toml").write_text(shown)
            (folder / "sd-vae-ft-mse").symlink_to(SD_V1.folder)
        case "python.md":
            tiny = stable_diffusion(StableDiffusionPipeline, AutoencoderKL.from_pretrained(ROOT / "fixtures" / "vae" / "sd-like"))
            tiny.save_pretrained(folder / "stable-diffusion")
        case "uis.md":
            # Lines of the two programs, as they are in their repositories.
            for name, lines in UI_SOURCES.items():
                (folder / name).parent.mkdir(parents=True)
                (folder / name).write_text(lines)
        case "video.md":
            (folder / "hunyuan-video-vae").symlink_to(NARROW_VIDEO.folder)
            generator = torch.Generator().manual_seed(0)
            save_file({"latents": torch.randn(1, 16, 3, 8, 12, generator=generator)}, folder / "latents.safetensors")
            np.save(folder / "video.npy", np.zeros((1, 3, 9, 64, 96), np.float32))


CLOUD = "https://{}.us-east-1.aws.endpoints.huggingface.cloud"
UI_SOURCES = {
    "ComfyUI/custom_nodes/ComfyUI-HFRemoteVae/nodes.py": f'endpoint = "{CLOUD.format("o7ywnmrahorts457")}/"\n',
    "sdnext/modules/vae/sd_vae_remote.py": "".join(
        f"    '{name}': '{CLOUD.format(host)}',\n"
        for name, host in {"sd": "q1bj3bpq6kzilnsu", "sdxl": "x2dmsqunjd6k9prw", "f1": "ptccx55jz97f9zgo"}.items()
    ),
}
# What a page takes for granted in Python, and a server that it speaks of and does not start itself.
PRELUDES = {"video.md": "from safetensors.torch import load_file\nlatents = load_file('latents.safetensors')['latents']\n"}
SERVERS = {
    "encode.md": "remote-vae serve",
    "python.md": "remote-vae serve --model demo=demo --model sd=fixtures/vae/sd-like",
    "queue.md": "remote-vae serve",
    "uis.md": "remote-vae serve",
    "video.md": "remote-vae serve --model ./hunyuan-video-vae",
}


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    return fresh_clone(tmp_path_factory.mktemp("clone"))


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_page(page, clone, tmp_path):
    found = blocks(page)
    if not any(block.commands or block.kind == "python" for block in found):
        return
    folder = tmp_path / "clone"
    shutil.copytree(clone, folder, symlinks=True)
    prepare(page.name, folder)
    # As if our package were installed.
    shell = Shell(folder, PYTHONPATH=str(folder / "python" / "src"))
    try:
        if "remote-vae-quickstart/" in page.read_text():
            code, printed = shell.run("remote-vae quickstart")
            assert code == 0, printed
        if command := SERVERS.get(page.name):
            shell.serve(command)
        for block in found:
            run(block, shell)
    finally:
        shell.close()


def run(block: Block, shell: Shell) -> None:
    if block.kind in NO_COMMANDS:
        assert "$ " not in block.text[:2]
        return
    assert block.kind in ("sh", "session", "python"), f"{block.page} has a block of {block.kind}: say in NO_COMMANDS what it is"
    if block.kind == "python":
        (shell.folder / "block.py").write_text(shell.local(PRELUDES.get(block.page, "") + block.text))
        code, printed = shell.run("python block.py 2>errors", 300)
        assert code == 0, (shell.folder / "errors").read_text()
        assert block.printed is None or printed == block.printed
        return
    for command, shown in block.commands:
        syntax = subprocess.run(["bash", "-n"], input=command, capture_output=True, text=True)
        assert syntax.returncode == 0, f"{command}: {syntax.stderr}"
        check_flags(command)
        if reason(block.page, command):
            continue
        if re.match(r"(\S*/)?remote-vae serve\b", command):
            shell.stop_serving()
            shell.serve(command.partition(" # ")[0])
            continue
        code, printed = shell.run(command)
        shown, logged = without_log(shown)
        assert is_shown(shown, printed) if shown else code == 0, f"{block.page}: {command}\n{printed}"
        assert shell.has_logged(logged), f"{block.page}: {command}\n{shell.log.read_text()}"


def test_nothing_is_left_out_without_need():
    """Each entry of NOT_RUN is of a command that is there."""
    for page in pages():
        texts = [command for block in blocks(page) for command, _ in block.commands]
        texts += [block.text for block in blocks(page) if not block.commands]
        for start in NOT_RUN.get(page.name, {}):
            assert any(text.startswith(start) for text in texts), f"{page.name} has nothing that begins with {start!r}"
    assert NOT_RUN.keys() <= {page.name for page in pages()}


def test_a_client_that_asks_for_webp(served):
    """docs/uis.md says that diffusers' client cannot."""
    from diffusers.utils.remote_utils import remote_decode

    with pytest.raises(UnidentifiedImageError):
        remote_decode(f"{served.url}/demo", torch.zeros(1, 16, 2, 2), scaling_factor=1.0, image_format="webp")


@pytest.mark.parametrize("index", [0, 1])
def test_the_log_of_models(tmp_path, index):
    """What the page shows of a server that takes its models from files and from the hub."""
    page = ROOT / "docs" / "serve-a-checkpoint.md"
    sessions = [block.text for block in blocks(page) if block.kind == "session" and "remote-vae serve" in block.text]
    sessions = [text for text in sessions if "ltx-vae" not in text]  # ends with an error
    command, *shown = masked(sessions[index]).splitlines()
    if index == 0:
        (warning,) = [block.text for block in blocks(page) if block.kind == "text" and " WARN " in block.text]
        shown += masked(warning).splitlines()
    for name, model, inside in [
        ("ae.safetensors", FLUX, None),
        ("sd_xl_base_1.0.safetensors", SDXL, "sdxl"),
        ("sdxl_vae.safetensors", SD_V1, None),
    ]:
        (tmp_path / name).symlink_to(original(model, inside))
    arguments = re.sub(r"^\$ remote-vae serve|--port \S+", "", command).split()
    if index == 0:
        arguments += ["--model", "bare=./sdxl_vae.safetensors"]
    with standing_in() as hub:
        hub.add("stabilityai/sd-vae-ft-mse", SD_V1.folder)
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_CACHE": ""}
        service = Service(arguments, tmp_path / "log", tmp_path, **environment)
        try:
            service.wait_until_ready()
        finally:
            service.stop()
    log = masked(service.log.read_text()).splitlines()
    missing = [line for line in shown if line != "..." and line not in log]
    assert missing == [], "\n".join(log)


def test_what_is_said_of_other_models(tmp_path):
    """What the page shows of a file of a family that is not served."""
    page = ROOT / "docs" / "serve-a-checkpoint.md"
    (text,) = [block.text for block in blocks(page) if block.kind == "session" and "ltx-vae" in block.text]
    command, shown = text.strip().split("\n", 1)
    tensors = {"decoder.up_blocks.0.res_blocks.0.conv1.conv.weight": torch.zeros(8, 8, 3, 3, 3)}
    save_file(tensors | {"per_channel_statistics.mean-of-means": torch.zeros(128)}, tmp_path / "ltx-vae.safetensors")
    arguments = command.removeprefix("$ remote-vae ").split()
    result = subprocess.run(
        [binary(), *arguments, "--port", "0"], cwd=tmp_path, capture_output=True, text=True, env=clean_environment(), timeout=120
    )
    assert result.returncode == 1
    assert shown in result.stderr.splitlines(), result.stderr
