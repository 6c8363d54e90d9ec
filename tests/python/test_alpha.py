"""Models of pictures with alpha."""

import numpy as np
import pytest
import remote_vae
import torch
from compare import assert_bytes, assert_latents
from diffusers.image_processor import VaeImageProcessor
from models import ALPHA
from PIL import Image
from place import PHOTOGRAPH
from remote_vae import RemoteAutoencoder
from service import serving


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with serving([f"--model=alpha={ALPHA.folder}"], tmp_path_factory.mktemp("alpha") / "log") as service:
        yield f"{service.url}/alpha"


@pytest.fixture(scope="module")
def photograph():
    picture = Image.open(PHOTOGRAPH).convert("RGB").resize((48, 40))
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    return picture


def test_pictures_are_rgba(url):
    latents = ALPHA.latents(2, 5, 7)
    expected = ALPHA.decoded(ALPHA.unscaled(latents))
    options = {"scaling_factor": ALPHA.scaling_factor}
    one = remote_vae.decode(latents[:1], url, image_format="png", **options)
    assert (one.mode, one.size, one.format) == ("RGBA", (28, 20), "PNG")
    assert_bytes(np.asarray(one)[None], expected[:1])
    webp = remote_vae.decode(latents[:1], url, image_format="webp", **options)
    assert webp.mode == "RGBA" and np.array_equal(np.asarray(webp)[..., 3], np.asarray(one)[..., 3])
    both = remote_vae.decode(latents, url, image_format="png", **options)
    bare = remote_vae.decode(latents, url, output_type="pt", partial_postprocess=True, return_type="pil", **options)
    for png, made in zip(both, bare):
        assert png.mode == made.mode == "RGBA" and np.array_equal(np.asarray(png), np.asarray(made))
    with pytest.raises(remote_vae.RefusedError, match="image_format=png or webp"):
        remote_vae.decode(latents[:1], url, **options)


@pytest.mark.parametrize("mode", ["RGBA", "RGBa", "LA", "La", "PA", "P", "RGB", "CMYK"])
def test_alpha_is_sent_in_whatever_mode_it_is(url, photograph, mode):
    if mode in ("P", "PA"):
        image = photograph.convert("RGB").quantize(13)
        image.info["transparency"] = 3
        image = image.convert(mode)
    else:
        image = {"La": photograph.convert("LA"), "CMYK": photograph.convert("RGB")}.get(mode, photograph).convert(mode)
    assert image.mode == mode
    # Pillow goes some ways by a mode between.
    rgba = image.convert({"CMYK": "RGB", "La": "LA"}.get(mode, mode)).convert("RGBA")
    expected = ALPHA.posterior(VaeImageProcessor(vae_scale_factor=4).preprocess(rgba)).mode()
    assert_latents(torch.from_numpy(remote_vae.encode(image, url, sample_mode="argmax")), expected)


def test_a_remote_autoencoder_has_its_channels(url, photograph):
    vae = RemoteAutoencoder(url)
    assert vae.config.in_channels == vae.config.out_channels == 4
    prepared = VaeImageProcessor(vae_scale_factor=4).preprocess(photograph)
    latents = vae.encode(prepared).latent_dist.mode()
    assert_latents(latents, ALPHA.posterior(prepared).mode())
    assert vae.decode(latents).sample.shape == prepared.shape
