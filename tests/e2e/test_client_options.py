"""Every combination of options from which diffusers' client can make something, on the embedded model."""

import itertools

import numpy as np
import pytest
import torch
from compare import assert_bytes, assert_floats, assert_same_picture, psnr, round8
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.remote_utils import remote_decode
from PIL import Image

# (output_type, return_type, partial_postprocess, with a processor) -> what the client then returns. What is not here
# the client refuses by itself, or never assigns a result.
FORMS = {
    ("pil", "pil", False, False): "file",
    ("pil", "pil", True, False): "file",
    ("pil", "pil", False, True): "pictures",
    ("pil", "pil", True, True): "pictures",
    ("pil", "pt", False, True): "unit tensor",
    ("pil", "pt", True, True): "unit tensor",
    ("pt", "pil", False, True): "picture",
    ("pt", "pil", True, False): "picture",
    ("pt", "pil", True, True): "picture",
    ("pt", "pt", False, False): "tensor",
    ("pt", "pt", False, True): "tensor",
    ("pt", "pt", True, False): "byte tensor",
    ("pt", "pt", True, True): "byte tensor",
    ("pt", "mp4", False, False): "tensor",
}


@pytest.fixture(scope="module")
def latents(demo):
    return demo.latents(1, 13, 22)


@pytest.fixture(scope="module")
def reference(demo, latents):
    return demo.decoded(demo.unscaled(latents))


@pytest.mark.parametrize("image_format", ["jpg", "png"])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form)))
def test_what_comes_back(server, demo, latents, reference, form, image_format):
    output_type, return_type, partial_postprocess, with_processor = form
    got = remote_decode(
        f"{server.url}/demo",
        latents,
        processor=VaeImageProcessor() if with_processor else None,
        scaling_factor=demo.scaling_factor,
        shift_factor=demo.shift_factor,
        output_type=output_type,
        return_type=return_type,
        image_format=image_format,
        partial_postprocess=partial_postprocess,
    )
    match FORMS[form]:
        case "file":
            assert isinstance(got, Image.Image)
            if image_format == "png":
                assert got.format == "png"
                assert_bytes(np.asarray(got)[None], reference)
            else:
                assert got.format == "jpeg"
                assert psnr(np.asarray(got), round8(reference)[0]) > 20, "not this picture"
        case "pictures":
            # The client turns the float16 values it got into bytes by itself, and so is the reference here.
            (picture,) = got
            unit = (reference / 2 + 0.5).clamp(0, 1).half()
            expected = (unit.permute(0, 2, 3, 1).float().numpy() * 255).round().astype("uint8")
            assert_same_picture(np.asarray(picture)[None], expected)
        case "picture" if partial_postprocess:
            assert_bytes(np.asarray(got)[None], reference)
        case "picture":
            (expected,) = VaeImageProcessor().postprocess(reference.half(), output_type="pil")
            assert_same_picture(np.asarray(got), np.asarray(expected))
        case "tensor":
            assert_floats(got, reference)
        case "unit tensor":
            assert got.dtype == torch.float16
            expected = (reference / 2 + 0.5).clamp(0, 1)
            assert got.shape == expected.shape
            assert (got.float() - expected.half().float()).abs().max() <= 1.5e-3
        case "byte tensor":
            assert_bytes(got.numpy(), reference)


def test_the_table_is_complete(server, demo, latents):
    """What FORMS leaves out gives no result even when the server answers well: the client says so itself."""
    everything = itertools.product(["pil", "pt"], ["pil", "pt", "mp4"], [False, True], [False, True])
    for form in set(everything) - set(FORMS):
        output_type, return_type, partial_postprocess, with_processor = form
        if form == ("pt", "mp4", False, True):
            continue  # makes a picture all the same; asking for mp4 of a tensor is a mistake without consequence
        with pytest.raises((ValueError, UnboundLocalError)):
            remote_decode(
                f"{server.url}/demo",
                latents,
                processor=VaeImageProcessor() if with_processor else None,
                scaling_factor=demo.scaling_factor,
                output_type=output_type,
                return_type=return_type,
                partial_postprocess=partial_postprocess,
            )


@pytest.mark.parametrize("return_type", ["pil", "pt", "mp4"])
@pytest.mark.parametrize("partial_postprocess", [False, True])
def test_an_image_model_makes_no_video(server, latents, return_type, partial_postprocess):
    with pytest.raises(RuntimeError, match="mp4"):
        remote_decode(
            f"{server.url}/demo",
            latents,
            scaling_factor=1.0,
            output_type="mp4",
            return_type=return_type,
            partial_postprocess=partial_postprocess,
        )


def test_a_batch_is_no_single_picture(server, demo):
    with pytest.raises(RuntimeError, match="pt"):
        remote_decode(f"{server.url}/demo", demo.latents(2, 3, 3), scaling_factor=1.0)


def test_base64_arguments_of_old_callers(server, demo, latents, reference):
    """Deprecated in diffusers: its client sends binary all the same."""
    got = remote_decode(
        f"{server.url}/demo",
        latents,
        scaling_factor=demo.scaling_factor,
        shift_factor=demo.shift_factor,
        output_type="pt",
        return_type="pt",
        input_tensor_type="base64",
        output_tensor_type="base64",
    )
    assert_floats(got, reference)
