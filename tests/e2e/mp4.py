"""An mp4 file as FFmpeg sees it, and what every one of ours must be."""

import io

import av
import numpy as np


def boxes(file: bytes) -> list[str]:
    """The names of the boxes at the top of the file, in order."""
    names, at = [], 0
    while at < len(file):
        names.append(file[at + 4 : at + 8].decode())
        at += int.from_bytes(file[at : at + 4], "big")
    assert at == len(file), "the last box does not end with the file"
    return names


def frames(file: bytes, fps: int = 15) -> np.ndarray:
    """Decodes the file to RGB, [F, H, W, 3], and checks all that a player goes by."""
    names = boxes(file)
    assert names.index("moov") < names.index("mdat"), "a browser cannot play it while it arrives"
    with av.open(io.BytesIO(file)) as container:
        assert [stream.type for stream in container.streams] == ["video"], "there is sound, or more than one video"
        (stream,) = container.streams.video
        codec = stream.codec_context
        assert (codec.name, codec.profile, codec.pix_fmt) == ("h264", "High", "yuv420p")
        # Numbers of ITU-T H.273: 1 is BT.709, of primaries, transfer and matrix; FFmpeg's 1 for limited range.
        assert (codec.color_range, codec.colorspace, codec.color_primaries, codec.color_trc) == (1, 1, 1, 1)
        assert not codec.has_b_frames, "a player would wait for frames that are to be shown later"
        decoded = list(container.decode(video=0))
        assert stream.average_rate == fps
        assert stream.frames == len(decoded)
        assert stream.duration * stream.time_base * fps == len(decoded)
        assert [frame.time for frame in decoded] == [index / fps for index in range(len(decoded))]
        # The stream says the same of its colours as the container, for players that go by the one or the other.
        assert {(frame.color_range, frame.colorspace) for frame in decoded} == {(1, 1)}
        return np.stack([frame.to_ndarray(format="rgb24") for frame in decoded])
