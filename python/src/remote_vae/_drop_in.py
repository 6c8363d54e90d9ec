"""`remote_decode` and `remote_encode` with the arguments and results of `diffusers.utils.remote_utils`: change the import.

What is better than there: the bytes are right for tensors on any device and in any layout, requests are repeated when a
server is busy or restarts, and errors have the server's sentence.
"""

from typing import TYPE_CHECKING, Any, Literal

from ._calls import Decoded, picture
from ._client import RemoteVae
from ._errors import InputError
from ._tensors import Tensor

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


def remote_decode(
    endpoint: str,
    tensor: "torch.Tensor",
    processor: Any = None,
    do_scaling: bool | None = True,
    scaling_factor: float | None = None,
    shift_factor: float | None = None,
    output_type: Literal["mp4", "pil", "pt"] = "pil",
    return_type: Literal["mp4", "pil", "pt"] = "pil",
    image_format: Literal["png", "jpg"] = "jpg",
    partial_postprocess: bool = False,
    input_tensor_type: Literal["binary"] = "binary",
    output_tensor_type: Literal["binary"] = "binary",
    height: int | None = None,
    width: int | None = None,
) -> "Image | list[Image] | bytes | torch.Tensor":
    """Decodes latents, with the arguments of diffusers' function of this name.

    Args:
        endpoint: the URL of the server.
        tensor: latents [B, C, h, w], videos [B, C, f, h, w], or packed [B, tokens, 4C] with `height` and `width`.
        processor: a `VaeImageProcessor` or `VideoProcessor`; it makes pictures of a `pt` answer. With `output_type="pil"`
            and any processor, values in [0, 1] are sent instead of a picture file.
        do_scaling: False or None: no factor is sent. True without `scaling_factor`: the server's own factors.
        scaling_factor: the latents become `latents / scaling_factor + shift_factor`.
        shift_factor: see `scaling_factor`.
        output_type: what the server answers with: a picture file, a tensor, or a video file.
        return_type: what is returned.
        image_format: of the picture file.
        partial_postprocess: with `pt`: bytes [B, H, W, 3] instead of values in [-1, 1].
        input_tensor_type: has no effect; tensors travel as bytes.
        output_tensor_type: has no effect.
        height: of the picture in pixels, for packed latents.
        width: see `height`.

    Returns:
        A PIL image (with its `format`), a list of them, the bytes of an mp4 file, or a tensor on the CPU.

    Raises:
        ValueError: arguments that contradict each other, or latents that are no numbers.
        RemoteVaeError: what went wrong; it is a `RuntimeError`, as diffusers' function raises.
    """
    if tensor.ndim == 3 and height is None and width is None:
        raise InputError("latents of three axes are packed ones, which need `height` and `width`")
    wants_pictures = return_type == "pil"
    if output_type == "pt" and wants_pictures and not partial_postprocess and not hasattr(processor, "postprocess"):
        raise InputError("`processor` must be a VaeImageProcessor or VideoProcessor to make pictures of an answer of `pt`")
    as_tensor = output_type == "pt" or (output_type == "pil" and processor is not None)
    if not as_tensor and output_type != return_type:
        raise InputError(f"`output_type` {output_type!r} cannot be returned as {return_type!r}")
    with RemoteVae(endpoint) as vae:
        answer: Decoded = vae.decode(
            tensor,
            do_scaling=bool(do_scaling),
            scaling_factor=scaling_factor if do_scaling else None,
            shift_factor=shift_factor if do_scaling and scaling_factor is not None else None,
            output_type=output_type,
            return_type="pt" if as_tensor else "file",
            image_format=image_format,
            partial_postprocess=partial_postprocess and output_type == "pt",
            height=height,
            width=width,
        )
    if not as_tensor:
        assert isinstance(answer, bytes)
        return _opened(answer) if output_type == "pil" else answer
    return _pictures(answer, processor, output_type, partial_postprocess) if wants_pictures else answer


def _opened(file: bytes) -> "Image":
    """A picture file in RGB, which still tells its format, as diffusers does: in lower case."""
    opened = picture(file)
    image = opened.convert("RGB")
    image.format = opened.format.lower() if opened.format else None
    return image


def _pictures(values: Any, processor: Any, output_type: str, partial_postprocess: bool) -> "Image | list[Image]":
    from PIL import Image

    if output_type == "pt" and not partial_postprocess:
        video = getattr(processor, "postprocess_video", None)
        images: list[Image] = (video or processor.postprocess)(values, output_type="pil")
        return images[0]
    if output_type == "pil":
        # Values in [0, 1], [B, 3, H, W].
        unit = values.permute(0, 2, 3, 1).float().numpy()
        return [Image.fromarray(one) for one in (unit * 255).round().astype("uint8")]
    pictures = [Image.fromarray(one) for one in values.numpy()]
    return pictures[0] if len(pictures) == 1 else pictures


def remote_encode(
    endpoint: str, image: "torch.Tensor | Image", scaling_factor: float | None = None, shift_factor: float | None = None
) -> "torch.Tensor":
    """Encodes a picture, with the arguments of diffusers' function of this name.

    Args:
        endpoint: the URL of the server.
        image: a PIL image, or a tensor [B, 3, H, W]: with a negative value in [-1, 1], else in [0, 1].
        scaling_factor: the latents become `(latents - shift_factor) * scaling_factor`.
        shift_factor: see `scaling_factor`.

    Returns:
        Latents [B, C, h, w] on the CPU, a sample of their distribution.

    Raises:
        RemoteVaeError: what went wrong.
    """
    shift_factor = shift_factor if scaling_factor is not None else None
    with RemoteVae(endpoint) as vae:
        latents: Tensor = vae.encode(image, scaling_factor=scaling_factor, shift_factor=shift_factor, return_type="pt")
    return latents
