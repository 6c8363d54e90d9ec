"""The code that the page shows does what the page did."""

import numpy as np
import pytest
import torch
from compare import pixels, psnr
from page_code import run_curl, run_python, run_rust
from page_tab import decode, drop, saved, try_it
from safetensors.torch import save_file


@pytest.mark.parametrize("source", ["example", "numpy", "batch", "webp", "torch", "npz", "compressed"])
def test_the_code_does_what_the_page_did(page, tmp_path, source):
    """Each of the three, copied from the page and run, writes the very file that the page has got."""
    generator = torch.Generator().manual_seed(0)
    if source == "example":
        try_it(page)
        page.get_by_text("JPEG", exact=True).click()
        page.get_by_label("Quality").fill("40")
        # What the code for Python and Rust reads, the command fetches.
    elif source == "webp":
        try_it(page)
        page.get_by_text("WebP", exact=True).click()
        page.get_by_label("Quality").fill("40")
    elif source == "numpy":
        np.save(tmp_path / "it's latents.npy", torch.randn(16, 4, 4, generator=generator).numpy())
        drop(page, "it's latents.npy", (tmp_path / "it's latents.npy").read_bytes())
    elif source == "torch":
        torch.save({"runs": [torch.randn(2, 16, 4, 4, generator=generator).bfloat16()]}, tmp_path / "runs.pt")
        drop(page, "runs.pt", (tmp_path / "runs.pt").read_bytes())
        page.get_by_label("Of the batch, number").fill("2")
    elif source in ("npz", "compressed"):
        save = np.savez if source == "npz" else np.savez_compressed
        save(tmp_path / "cache.npz", size=np.zeros(2), latents=torch.randn(16, 4, 4, generator=generator).numpy())
        drop(page, "cache.npz", (tmp_path / "cache.npz").read_bytes())
    else:
        save_file({'a "name"': torch.randn(3, 16, 4, 4, generator=generator).bfloat16()}, tmp_path / "batch.safetensors")
        drop(page, "batch.safetensors", (tmp_path / "batch.safetensors").read_bytes())
        page.get_by_label("Of the batch, number").fill("3")
        page.get_by_text("More options").click()
        page.get_by_label("Scale the latents").select_option("none")
        page.get_by_label("In tiles").check()
    decode(page)
    shown = saved(page)
    name = {"example": "picture.jpg", "webp": "picture.webp"}.get(source, "picture.png")
    for tab, run, needs in [
        ("curl", run_curl, "curl"),
        ("Rust", run_rust, "// In Cargo.toml: remote-vae-client = "),
        ("Python", run_python, "# pip install "),
    ]:
        page.get_by_role("tab", name=tab).click()
        code = page.locator("#code-text").text_content()
        # What it needs is said first, and who pastes it into a file gets whole lines.
        assert needs in code
        assert code.endswith("\n")
        assert not code.endswith("\n\n")
        run(code, tmp_path)
        file = tmp_path / name
        if tab == "Python":
            # Its client decodes the file and writes it again.
            kind = {"example": "JPEG", "webp": "WEBP"}.get(source, "PNG")
            assert psnr(pixels(file.read_bytes(), kind), pixels(shown, kind)) > 35
        else:
            assert file.read_bytes() == shown, tab
        file.unlink()
