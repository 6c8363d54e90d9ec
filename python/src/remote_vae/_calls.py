"""What is asked of a server in one call, in diffusers' words, and what is made of its answer."""

import io
import os
import sys
import urllib.parse
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

from ._errors import AnswerError, InputError, ServerWarning
from ._exchange import Answer, Request
from ._tensors import Array, Library, Tensor, WireTensor, from_wire, library_of, to_wire

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

Decoded: TypeAlias = "Image | list[Image] | Array | torch.Tensor | bytes"
Encodable: TypeAlias = "Image | Array | torch.Tensor | bytes | os.PathLike[str]"
PACKAGE = os.path.dirname(__file__) + os.sep

# Bytes that any answer may have.
FREE = 1 << 20
# Decoded values of one latent value at most: LTX-Video's autoencoder makes 192 of one.
VALUES = 256
# Bytes of the latents of a picture whose size is not known here.
UNKNOWN = 64 << 20


class DecodeOptions(TypedDict, total=False):
    """What can be asked of a decode. [The protocol](docs/protocol.md) says what the server makes of each."""

    scaling_factor: float | None
    """The latents become `latents / scaling_factor + shift_factor`. Without it they are taken as scaled already."""
    shift_factor: float | None
    """See `scaling_factor`."""
    do_scaling: bool
    """Without a `scaling_factor`, True: the factors of the model that is served."""
    output_type: Literal["pil", "pt", "mp4"]
    """`pil` (default): pictures. `pt`: the values as the decoder gives them, [B, 3, H, W], nominally in [-1, 1]. `mp4`: the
    bytes of a video file. Of models with alpha it is 4 for 3, and pictures are of mode RGBA."""
    return_type: Literal["pil", "pt", "np", "file"] | None
    """What is returned: `pil` a `PIL.Image.Image`, or a list of them for a batch or a video; `file` the bytes of a picture
    file; `pt` a `torch.Tensor`, `np` an array. By itself it follows from `output_type`, and a tensor comes back to the
    library that the latents are of."""
    image_format: Literal["jpg", "png", "webp"]
    """Of pictures as they travel; `jpg` if not said, which has no alpha. The frames of a video travel as bytes, without loss."""
    quality: int | None
    """Of JPEG, WebP and mp4 files, 1 to 100."""
    fps: int | None
    """Frames a second of an mp4 file; the server's default is 15."""
    partial_postprocess: bool
    """With `pt`: bytes [B, H, W, 3] instead, ready to show."""
    height: int | None
    """Of the picture, in pixels: of packed latents [B, tokens, 4C] only, which need it."""
    width: int | None
    """See `height`."""
    tiling: bool
    """Decode in tiles, as diffusers does after `enable_tiling()`."""
    framewise: bool
    """Of a video, False: all frames in one pass, in more memory."""
    out_dtype: Literal["float16", "bfloat16", "float32"] | None
    """Of a tensor answer; the server's default is float16."""
    allow_non_finite: bool
    """Send NaN and infinity all the same."""


class EncodeOptions(TypedDict, total=False):
    """What can be asked of an encode. [The protocol](docs/protocol.md) says what the server makes of each."""

    scaling_factor: float | None
    """The latents become `(latents - shift_factor) * scaling_factor`. Without it they are not scaled."""
    shift_factor: float | None
    """See `scaling_factor`."""
    do_scaling: bool
    """Without a `scaling_factor`, True: the factors of the model that is served."""
    sample_mode: Literal["sample", "argmax", "moments"]
    """`sample` (default): latents drawn from the distribution that the encoder finds. `argmax`: its mean. `moments`: mean
    and logarithm of the variance, [B, 2C, h, w], not scaled; the values of a tensor are then those that the encoder takes,
    in [-1, 1]."""
    seed: int | None
    """Of a sample, 0 to 2**64 - 1: the same seed gives the same latents."""
    out_dtype: Literal["float16", "bfloat16", "float32"] | None
    """Of the latents; the server's default is float16."""
    tiling: bool
    """Encode in tiles, as diffusers does after `enable_tiling()`."""
    framewise: bool
    """Of a video, False: all frames in one pass, in more memory."""
    return_type: Literal["pt", "np"] | None
    """`pt`: a `torch.Tensor`; `np`: an array. By itself as the picture is, and for a file or a PIL image an array."""
    allow_non_finite: bool
    """Send NaN and infinity all the same."""


@dataclass(frozen=True)
class Call:
    """A request, and how its answer is read."""

    request: Request
    read: Callable[[Answer], Any]

    def finish(self, answer: Answer) -> Any:
        """What the caller gets. What the server warns of becomes warnings here, in the caller's thread."""
        for sentence in answer.headers.get_list("x-warning"):
            warn(sentence)
        return self.read(answer)


def warn(message: str) -> None:
    """A `ServerWarning` that names the line of the caller's code, not one of this package."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, ServerWarning, stacklevel=level)


def decode_call(latents: Tensor, options: DecodeOptions) -> Call:
    """A decode of latents [B, C, h, w], [C, h, w], packed [B, tokens, 4C], or of videos [B, C, f, h, w]."""
    _known(options, DecodeOptions, "decode")
    tensor = to_wire(latents, "the latents", options.get("allow_non_finite", False))
    output_type = options.get("output_type", "pil")
    image_format = options.get("image_format", "jpg")
    return_type = options.get("return_type") or (tensor.library if output_type == "pt" else output_type)
    is_packed = len(tensor.shape) == 3 and options.get("height") is not None
    is_batch = len(tensor.shape) > 3 - is_packed and tensor.shape[0] > 1
    is_video = len(tensor.shape) == 5 and tensor.shape[2] > 1
    partial_postprocess = options.get("partial_postprocess", False)
    accept, read = "tensor/binary", lambda answer: from_wire(answer.headers, answer.body, _library(return_type))
    match output_type, return_type:
        case "pil", "pil" if is_video:
            output_type, partial_postprocess = "pt", True
            read = lambda answer: frames(answer)
        case "pil", "pil" if is_batch:
            accept, read = "application/zip", pictures
        case "pil", "pil":
            accept, read = _media_type(image_format), lambda answer: picture(answer.body)
        case "pil", "file":
            accept, read = _media_type(image_format), lambda answer: answer.body
        case ("pil" | "pt"), ("pt" | "np"):
            pass
        case "pt", "pil" if partial_postprocess:
            read = frames
        case "mp4", ("mp4" | "file"):
            accept, read = "video/mp4", video
        case _:
            raise InputError(f"`output_type` {output_type!r} cannot be returned as {return_type!r}")
    parameters = {
        "shape": list(tensor.shape),
        "dtype": tensor.dtype,
        "output_type": output_type,
        "image_format": image_format if output_type == "pil" else None,
        "partial_postprocess": partial_postprocess or None,
        **_same(options, "quality", "fps", "height", "width", "tiling", "framewise", "out_dtype"),
        **_scaling(options),
    }
    headers = {"content-type": "tensor/binary", "accept": accept}
    most = tensor.count * VALUES * 4 + FREE
    return Call(Request(_query(parameters), headers, tensor.data, most), read)


def encode_call(image: Encodable, options: EncodeOptions) -> Call:
    """An encode of a picture: a PIL image, the bytes or the path of a file, or a tensor [B, 3, H, W], [3, H, W] or
    [B, 3, F, H, W] (with a negative value in [-1, 1], else in [0, 1]; uint8 from 0 to 255)."""
    _known(options, EncodeOptions, "encode")
    parameters: dict[str, object] = {
        "task": "encode",
        **_same(options, "sample_mode", "seed", "out_dtype", "tiling", "framewise"),
        **_scaling(options),
    }
    library: Library = "np"
    if (file := _file(image)) is not None:
        body, content_type, most = file, "application/octet-stream", UNKNOWN
    else:
        tensor: WireTensor = to_wire(image, "the pixels", options.get("allow_non_finite", False))
        body, content_type, most = tensor.data, "tensor/binary", tensor.count * 8 + FREE
        parameters |= {"shape": list(tensor.shape), "dtype": tensor.dtype}
        library = library_of(image)
    returned = _library(options.get("return_type") or library)
    headers = {"content-type": content_type, "accept": "tensor/binary"}
    request = Request(_query(parameters), headers, body, most)
    return Call(request, lambda answer: from_wire(answer.headers, answer.body, returned))


def _file(image: object) -> bytes | None:
    """The picture file that is sent of a picture which is no tensor."""
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    if isinstance(image, os.PathLike):
        with open(image, "rb") as file:
            return file.read()
    module = sys.modules.get("PIL.Image")
    if module is None or not isinstance(image, module.Image):
        return None
    content = io.BytesIO()
    # What a PNG file cannot hold, such as CMYK, is brought to RGB as the server would, and to RGBA where there is alpha.
    plain: Any = image
    if image.mode == "La":
        plain = image.convert("LA")
    elif image.mode in ("PA", "RGBa"):
        plain = image.convert("RGBA")
    elif image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        plain = image.convert("RGB")
    plain.save(content, format="PNG", compress_level=1)
    return content.getvalue()


def _known(options: Mapping[str, Any], kind: type, name: str) -> None:
    for unknown in options.keys() - kind.__annotations__.keys():
        raise TypeError(f"{name} has no option {unknown!r}; it has {', '.join(kind.__annotations__)}")


def _library(return_type: str) -> Library:
    return "pt" if return_type == "pt" else "np"


def _media_type(image_format: str) -> str:
    return f"image/{'jpeg' if image_format in ('jpg', 'jpeg') else image_format}"


def _same(options: Mapping[str, Any], *names: str) -> dict[str, object]:
    return {name: options.get(name) for name in names}


def _scaling(options: Mapping[str, Any]) -> dict[str, object]:
    scaling_factor, shift_factor = options.get("scaling_factor"), options.get("shift_factor")
    if scaling_factor is None:
        if shift_factor is not None:
            raise InputError("`shift_factor` needs `scaling_factor` beside it")
        return {"do_scaling": options.get("do_scaling", False)}
    return {"scaling_factor": float(scaling_factor), "shift_factor": None if shift_factor is None else float(shift_factor)}


def _query(parameters: Mapping[str, object]) -> str:
    return urllib.parse.urlencode({name: value for name, value in parameters.items() if value is not None}, doseq=True)


def picture(file: bytes) -> "Image":
    """The picture of a file, read to its end."""
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(file))
        image.load()
    except (UnidentifiedImageError, OSError) as error:
        raise AnswerError(f"the server's answer cannot be used: it is no picture ({error})") from None
    return image


def pictures(answer: Answer) -> "list[Image]":
    """The pictures of a batch, which come in one ZIP file."""
    try:
        with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
            return [picture(archive.read(name)) for name in archive.namelist()]
    except zipfile.BadZipFile as error:
        raise AnswerError(f"the server's answer cannot be used: it is no ZIP file ({error})") from None


def frames(answer: Answer) -> "Image | list[Image]":
    """Pictures of bytes [B, H, W, 3]; a single one by itself."""
    from PIL import Image

    values = from_wire(answer.headers, answer.body, "np")
    if values.ndim != 4 or values.dtype != "uint8":
        raise AnswerError(f"the server's answer cannot be used: it is {values.dtype} {list(values.shape)}")
    images = [Image.fromarray(one) for one in values]
    return images[0] if len(images) == 1 else images


def video(answer: Answer) -> bytes:
    """The bytes of an mp4 file, whose second word is the name of its first box (ISO/IEC 14496-12, 4.3)."""
    if answer.body[4:8] != b"ftyp":
        raise AnswerError("the server's answer cannot be used: it is no mp4 file")
    return answer.body
