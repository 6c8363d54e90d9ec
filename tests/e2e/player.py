"""A video in a real browser."""

import base64
import contextlib
from collections.abc import Iterator

import numpy as np

OPEN = """async file => {
    const video = document.querySelector('video')
    await new Promise((resolve, reject) => {
        video.addEventListener('canplaythrough', resolve, {once: true})
        video.addEventListener('error', () => reject(video.error.message), {once: true})
        video.src = 'data:video/mp4;base64,' + file
    })
    return [video.readyState, video.duration, video.videoWidth, video.videoHeight]
}"""

PLAY = """async () => {
    const video = document.querySelector('video')
    const ended = new Promise(resolve => video.addEventListener('ended', resolve, {once: true}))
    await video.play()
    await ended
    return video.currentTime
}"""

DRAW = """async time => {
    const video = document.querySelector('video')
    const seeked = new Promise(resolve => video.addEventListener('seeked', resolve, {once: true}))
    // The frame may come to the screen only after that; where it is there already, none comes.
    const shown = new Promise(resolve => video.requestVideoFrameCallback(resolve))
    video.currentTime = time
    await seeked
    await Promise.race([shown, new Promise(resolve => setTimeout(resolve, 1000))])
    const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight)
    const context = canvas.getContext('2d')
    context.drawImage(video, 0, 0)
    return Array.from(context.getImageData(0, 0, canvas.width, canvas.height).data)
}"""


class Player:
    """A `<video>` that has all it needs to play."""

    def __init__(self, page, file: bytes) -> None:
        self.page = page
        page.set_content("<video muted preload=auto></video>")
        ready, self.duration, *size = page.evaluate(OPEN, base64.b64encode(file).decode())
        assert ready == 4, "HAVE_ENOUGH_DATA"
        self.size = tuple(size)

    def play(self) -> float:
        """Plays it from where it is to its end, and says where that is, in seconds."""
        return self.page.evaluate(PLAY)

    def drawn(self, seconds: float) -> np.ndarray:
        """The picture that is shown at this time, [H, W, 3]."""
        width, height = self.size
        return np.array(self.page.evaluate(DRAW, seconds), np.uint8).reshape(height, width, 4)[:, :, :3]


@contextlib.contextmanager
def opened(browser, file: bytes) -> Iterator[Player]:
    page = browser.new_page()
    try:
        yield Player(page, file)
    finally:
        page.close()
