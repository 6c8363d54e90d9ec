"""The rules of ARCHITECTURE.md: who may depend on whom, and where `unsafe` may be.

They are checked against what cargo itself says, so that a dependency that comes in by a detour counts too.
"""

import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Our own crates that each crate may depend on. A crate that is not here has no row yet.
ALLOWED = {
    "kernels": set(),
    "torchfile": set(),
    "vae": {"kernels", "torchfile"},
    "media": set(),
    "wire": set(),
    "service": {"wire", "vae", "media"},
    "server": {"wire", "vae", "service"},
    "client": {"wire"},
    "latents": {"wire", "torchfile"},
    "hub": set(),
    "cli": {"kernels", "vae", "media", "wire", "service", "server", "client", "latents", "hub"},
}

# Foreign crates that must not be reachable from a crate at all, however indirectly.
ASYNC_AND_HTTP = {"tokio", "hyper", "axum", "reqwest", "tower", "http", "ureq", "futures-util"}
CODECS = {"png", "jpeg-encoder", "image", "image-webp", "mozjpeg", "webp", "zune-jpeg"}
FORBIDDEN = {
    "kernels": ASYNC_AND_HTTP | CODECS | {"safetensors", "serde", "serde_json"},
    "torchfile": ASYNC_AND_HTTP | CODECS | {"safetensors", "serde", "serde_json"},
    "vae": ASYNC_AND_HTTP | CODECS,
    "media": ASYNC_AND_HTTP | {"safetensors"},
    "wire": (ASYNC_AND_HTTP - {"http"}) | CODECS | {"safetensors"},
    # Its channels are tokio's. A runtime, HTTP and status codes are of the front.
    "service": ASYNC_AND_HTTP - {"tokio"},
    "client": CODECS,
    "latents": (ASYNC_AND_HTTP - {"http"}) | CODECS,
    "hub": CODECS | {"safetensors"},
}

# Words that must not occur in the code of a crate: it would know what is none of its business.
FAMILIES = r"AutoencoderKL|HunyuanVideo|\bsdxl\b|\bflux\b|stable[_ -]diffusion"
UNSPOKEN = {
    "kernels": FAMILIES + r"|up_blocks|mid_block|safetensors::|config\.json",
    "torchfile": FAMILIES,
    "service": FAMILIES + r"|avx2|avx512|\bneon\b|is_x86_feature_detected|StatusCode|\bHTTP/",
    "server": FAMILIES + r"|avx2|avx512|\bneon\b|is_x86_feature_detected",
    "wire": FAMILIES,
    "hub": FAMILIES,
}

# The crates that may contain `unsafe`.
MAY_BE_UNSAFE = {"kernels"}


@pytest.fixture(scope="module")
def metadata():
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--all-features"]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)


def folder(package):
    """The name of our crate by its folder (`crates/vae` is `vae`), which is how everybody calls it."""
    return Path(package["manifest_path"]).parent.name


def ours(metadata):
    """The crates of the product. `fuzz` is none: it looks into all of them, as tests do."""
    members = set(metadata["workspace_members"])
    return {folder(p): p for p in metadata["packages"] if p["id"] in members and folder(p) != "fuzz"}


def edges(metadata):
    """What each package needs in a build, by id; what only tests and build scripts need is not part of it."""
    return {
        node["id"]: {d["pkg"] for d in node["deps"] if any(kind["kind"] is None for kind in d["dep_kinds"])}
        for node in metadata["resolve"]["nodes"]
    }


def reachable(edges, package):
    seen, queue = set(), [package]
    while queue:
        for dep in edges[queue.pop()] - seen:
            seen.add(dep)
            queue.append(dep)
    return seen


def faults(metadata):
    """One sentence for each edge that the rules do not allow."""
    crates = ours(metadata)
    by_id = {p["id"]: p for p in metadata["packages"]}
    found = [f"{name} has no row in ALLOWED" for name in crates.keys() - ALLOWED.keys()]
    short = {package["id"]: name for name, package in crates.items()}
    graph = edges(metadata)
    for name, package in crates.items():
        direct = {short[d] for d in graph[package["id"]] if d in short}
        found += [f"{name} depends on {d}" for d in direct - ALLOWED.get(name, set())]
        indirect = {by_id[d]["name"] for d in reachable(graph, package["id"])}
        found += [f"{name} pulls in {d}" for d in indirect & FORBIDDEN.get(name, set())]
    return found


def code(name):
    """The Rust code of a crate without its comments and its tests, by file."""
    files = sorted(f for f in (ROOT / "crates" / name / "src").rglob("*.rs") if f.stem != "tests")
    assert files, f"crates/{name}/src holds no Rust file"
    for file in files:
        text = re.split(r"#\[cfg\(test\)\]\s*mod \w+ \{", file.read_text())[0]
        yield file.relative_to(ROOT), re.sub(r"//.*", "", text)


def test_the_crates_depend_only_on_what_the_plan_allows(metadata):
    assert ours(metadata).keys() == ALLOWED.keys()
    assert faults(metadata) == []


def test_a_forbidden_edge_is_noticed(metadata):
    """The rule above can fail: the same metadata with one edge more does."""
    bad = json.loads(json.dumps(metadata))
    vae = ours(bad)["vae"]["id"]
    png = next(p["id"] for p in bad["packages"] if p["name"] == "png")
    for node in bad["resolve"]["nodes"]:
        for source, target in ((ours(bad)["wire"]["id"], vae), (vae, png)):
            if node["id"] == source:
                node["deps"].append({"pkg": target, "dep_kinds": [{"kind": None, "target": None}]})
    assert {"wire depends on vae", "wire pulls in png", "vae pulls in png"} <= set(faults(bad))


@pytest.mark.parametrize("name", sorted(UNSPOKEN))
def test_a_crate_does_not_speak_of_what_it_must_not_know(name):
    hits = [
        f"{file}:{number}: {line.strip()}"
        for file, text in code(name)
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(UNSPOKEN[name], line, re.I)
    ]
    assert hits == []


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_unsafe_stays_where_it_belongs(name):
    texts = dict(code(name))
    if name in MAY_BE_UNSAFE:
        assert any("unsafe" in text for text in texts.values()), f"{name} needs no leave to be unsafe"
        return
    roots = [text for file, text in texts.items() if file.name in ("lib.rs", "main.rs") and len(file.parts) == 4]
    assert roots and all("#![forbid(unsafe_code)]" in text for text in roots), (
        f"crates/{name} must say #![forbid(unsafe_code)] in its root"
    )
