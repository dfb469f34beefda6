"""Videos: frames out of a file, frames into an mp4 that browsers play, and a detector between the two.

One frame is in memory at a time, whatever the length. H.264 as ``av`` (FFmpeg) has it; sound is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from kdnb.datasets.kitti import Frame
from kdnb.errors import InputError
from kdnb.files import atomic_path
from kdnb.viz.boxes3d import fitted

MOST_FPS = 1000  # more means a broken header


@dataclass(frozen=True)
class Video:
    """A video file: ``for frame in video`` gives uint8 (H, W, 3), upright, each decoded on demand.

    Attributes:
        fps: frames per second of those given.
        count: number of frames by the file's header; 0 when unknown.
    """

    path: Path
    fps: float
    count: int
    stride: int
    most: int | None

    def __iter__(self) -> Iterator[np.ndarray]:
        """Raises InputError at the first frame that cannot be decoded."""
        given = 0
        with opened(self.path) as stream:
            for k, frame in enumerate(stream.container.decode(stream)):
                if given == self.most:
                    return
                if k % self.stride == 0:
                    given += 1
                    yield np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)))
        if not given:
            raise InputError(f"{self.path}: no frame in it, expected a video")


def read_video(path: str | Path, stride: int = 1, most: int | None = None) -> Video:
    """Open a video in any format that FFmpeg reads.

    Args:
        stride: give one frame in ``stride``.
        most: stop after so many.

    Raises:
        InputError: no such file, no video, or ``stride`` or ``most`` below 1.
    """
    if stride < 1 or (most is not None and most < 1):
        raise InputError(f"{path}: stride={stride}, most={most}, expected at least 1")
    with opened(path) as stream:
        fps = float(stream.average_rate or stream.guessed_rate or 25)
        if not 0 < fps <= MOST_FPS:
            raise InputError(f"{path}: {fps:g} frames per second, expected a video")
        seconds = (stream.container.duration or 0) / 1e6
        count = -(-(stream.frames or round(seconds * fps)) // stride)
    return Video(Path(path), fps / stride, count if most is None else min(count or most, most), stride, most)


@contextmanager
def opened(path: str | Path) -> Iterator[av.VideoStream]:
    """The first video stream of a file. What FFmpeg raises in the block becomes an InputError of one line."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InputError(f"{path}: no video stream in it, expected a video (mp4, webm, avi, ...)")
            container.streams.video[0].thread_type = "AUTO"
            yield container.streams.video[0]
    except av.FFmpegError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}), expected a video (mp4, webm, avi, ...)") from None


def write_video(path: str | Path, frames: Iterable[np.ndarray], fps: float) -> Path:
    """Write an mp4 (H.264, yuv420p) under a temporary name, then move it into place: whatever happens while the frames
    are made, ``path`` is the old file or the whole new one.

    Args:
        path: ends in .mp4.
        frames: uint8 (H, W, 3), all of one size; taken one by one. An odd side is made even by repeating its last
            row or column, as the format wants it.
        fps: frames per second.

    Raises:
        InputError: another ending, no frames, frames of two sizes, a place that cannot be written to.
    """
    path = Path(path)
    if path.suffix.lower() != ".mp4" or path.is_dir():
        raise InputError(f"{path}: expected the name of a file that ends in .mp4")
    if not 0 < fps <= MOST_FPS:
        raise InputError(f"{path}: fps is {fps}, expected frames per second, at most {MOST_FPS}")
    options = {"movflags": "+faststart"}
    try:
        with atomic_path(path) as part, av.open(str(part), "w", format="mp4", options=options) as container:
            _encode(container, path, frames, Fraction(fps).limit_denominator(1001))
    except av.FFmpegError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}), expected a folder with room") from None
    return path


def _encode(container, path, frames, fps):
    stream, size = None, None
    for k, pixels in enumerate(frames):
        size = size or (*pixels.shape[:2], 3)
        if pixels.dtype != np.uint8 or pixels.shape != size:
            raise InputError(f"{path}: frame {k} is {pixels.dtype} {pixels.shape}, expected uint8 {size}")
        high, wide = size[0] % 2, size[1] % 2
        frame = av.VideoFrame.from_ndarray(np.pad(pixels, ((0, high), (0, wide), (0, 0)), mode="edge"), format="rgb24")
        if stream is None:
            stream = container.add_stream("libx264", rate=fps, options={"crf": "23", "preset": "veryfast"})
            stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, "yuv420p"
        container.mux(stream.encode(frame))
    if stream is None:
        raise InputError(f"{path}: no frames to write, expected at least one")
    container.mux(stream.encode())


def detect_video(
    source: str | Path,
    target: str | Path,
    predict: Callable,
    draw: Callable,
    progress: Callable | None = None,
    stride: int = 1,
    most: int | None = None,
) -> Path:
    """A video's frames → outputs → images → ``target``, an mp4 that plays as fast as its source.

    Args:
        predict: ``f(frame)`` → anything.
        draw: ``f(frame, output)`` → image uint8 (H, W, 3).
        progress: ``f(done, total)`` after each frame; total is 0 when unknown.
        stride, most: of ``read_video``.

    Raises:
        InputError: as ``read_video`` and ``write_video``.
    """
    video = read_video(source, stride, most)

    def images() -> Iterator[np.ndarray]:
        for done, frame in enumerate(video, 1):
            yield draw(frame, predict(frame))
            if progress:
                progress(done, video.count)

    return write_video(target, images(), video.fps)


def clip_of_frames(path: str | Path, frames: Sequence[Frame], fps: float = 2.0) -> Path:
    """KITTI frames, one after the other, as a video: something to detect on without a video of one's own. Images of
    other sizes than the first are fitted into that."""
    return write_video(path, _images(frames), fps)


def _images(frames):
    size = None
    for frame in frames:
        image = frame.image()
        high, wide = size = size or image.shape[:2]
        image = fitted(image, wide, high)
        yield np.pad(image, ((0, high - image.shape[0]), (0, wide - image.shape[1]), (0, 0)), mode="edge")
