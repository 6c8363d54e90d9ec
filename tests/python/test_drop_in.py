"""`remote_decode` and `remote_encode` give what diffusers' functions of these names give, for every form of request."""

import inspect
import itertools

import numpy as np
import pytest
import remote_vae
import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import remote_utils
from diffusers.video_processor import VideoProcessor
from PIL import Image
from place import PHOTOGRAPH

LATENTS = torch.randn(1, 16, 4, 6, generator=torch.Generator().manual_seed(0)).half()
CLIP = torch.randn(1, 16, 2, 3, 4, generator=torch.Generator().manual_seed(0)).half()


def assert_same(ours, theirs) -> None:
    assert isinstance(ours, type(theirs)) or isinstance(theirs, Image.Image)
    match theirs:
        case Image.Image():
            assert (ours.mode, ours.size, ours.format) == (theirs.mode, theirs.size, theirs.format)
            assert np.array_equal(np.asarray(ours), np.asarray(theirs))
        case torch.Tensor():
            assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)
        case list():
            assert len(ours) == len(theirs) > 0
            for one, other in zip(ours, theirs):
                assert_same(one, other)
        case _:
            assert ours == theirs


def both(url: str, *positional, **options) -> None:
    assert_same(
        remote_vae.remote_decode(url, *positional, **options), remote_utils.remote_decode(url, *positional, **options)
    )


def test_the_arguments_are_the_same():
    for name in ("remote_decode", "remote_encode"):
        ours, theirs = (inspect.signature(getattr(module, name)).parameters for module in (remote_vae, remote_utils))
        assert [(p.name, p.default) for p in ours.values()] == [(p.name, p.default) for p in theirs.values()]


FORMS = [
    form
    for form in itertools.product(["pil", "pt"], ["pil", "pt"], ["jpg", "png"], [False, True], [False, True])
    # diffusers' function ends with an UnboundLocalError where it has no meaning.
    if form[:2] != ("pil", "pt") or form[4]
    if form[:2] != ("pt", "pil") or form[3] or form[4]
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form)))
def test_pictures(server, form):
    output_type, return_type, image_format, partial_postprocess, with_processor = form
    both(
        f"{server.url}/demo",
        LATENTS,
        processor=VaeImageProcessor() if with_processor else None,
        scaling_factor=0.3617,
        shift_factor=0.0693,
        output_type=output_type,
        return_type=return_type,
        image_format=image_format,
        partial_postprocess=partial_postprocess,
    )


@pytest.mark.parametrize("shift_factor", [None, 0.25])
@pytest.mark.parametrize("scaling_factor", [None, 0.7])
@pytest.mark.parametrize("do_scaling", [True, False, None])
def test_scaling(server, do_scaling, scaling_factor, shift_factor):
    options = {"do_scaling": do_scaling, "scaling_factor": scaling_factor, "shift_factor": shift_factor}
    both(f"{server.url}/demo", LATENTS, output_type="pt", return_type="pt", **options)


def test_batches_and_packed_latents(server):
    batch = torch.cat([LATENTS, -LATENTS])
    both(f"{server.url}/demo", batch, output_type="pt", partial_postprocess=True)
    both(f"{server.url}/demo", batch, processor=VaeImageProcessor())
    both(f"{server.url}/demo", batch.view(2, 6, 64), output_type="pt", return_type="pt", height=32, width=48)


@pytest.mark.parametrize("form", ["frames", "tensor", "unit", "mp4"])
def test_videos(server, form):
    options = {
        "frames": {"processor": VideoProcessor(), "output_type": "pt"},
        "tensor": {"output_type": "pt", "return_type": "pt"},
        "unit": {"processor": VideoProcessor(), "output_type": "pil"},
        "mp4": {"output_type": "mp4", "return_type": "mp4"},
    }[form]
    both(f"{server.url}/video", CLIP, scaling_factor=0.476986, **options)


def test_encoding(server):
    """A sample of their own each, from one distribution: by the seed in the address they are the same."""
    image = Image.open(PHOTOGRAPH).convert("RGB").resize((48, 32))
    # diffusers' function reads memory that it has freed where a tensor is not contiguous.
    tensor = VaeImageProcessor().preprocess(image).contiguous()
    for picture in [image, tensor, tensor.half()]:
        for factors in [{}, {"scaling_factor": 0.7}, {"scaling_factor": 0.7, "shift_factor": 0.2}]:
            url = f"{server.url}/demo?seed=7"
            assert_same(remote_vae.remote_encode(url, picture, **factors), remote_utils.remote_encode(url, picture, **factors))


def test_what_diffusers_refuses_is_refused(server):
    """By an exception of the same kind, with what to do."""
    for latents, options in [
        (LATENTS[0], {}),
        (LATENTS, {"output_type": "pt"}),
    ]:
        with pytest.raises(ValueError, match="required"):
            remote_utils.remote_decode(server.url, latents, scaling_factor=1.0, **options)
        with pytest.raises(ValueError, match="`height` and `width`|`processor`"):
            remote_vae.remote_decode(server.url, latents, scaling_factor=1.0, **options)
    for decode in (remote_vae.remote_decode, remote_utils.remote_decode):
        with pytest.raises(RuntimeError, match="do not fit this model"):
            decode(f"{server.url}/sd", LATENTS, scaling_factor=1.0)
    with pytest.raises(ValueError, match="cannot be returned"):
        remote_vae.remote_decode(server.url, LATENTS, return_type="pt")


def test_what_diffusers_sends_wrong_is_right(server):
    """diffusers 0.39 to 0.42.1 sends a tensor that is not contiguous in the order of its memory."""
    strided = LATENTS.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)
    options = {"output_type": "pt", "return_type": "pt", "scaling_factor": 1.0}
    right = remote_vae.remote_decode(f"{server.url}/demo", LATENTS, **options)
    assert torch.equal(remote_vae.remote_decode(f"{server.url}/demo", strided, **options), right)
