"""Frames of a video file by index, decoded with the optional package PyAV.

The packets of the file are first listed without decoding, which gives the exact number of frames and the
timestamp of each. A frame is then decoded from the keyframe before it, so memory does not depend on the
length of the video. Only files with unreliable timestamps are decoded from their start.
"""

from __future__ import annotations

import bisect
import io
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, BinaryIO, NamedTuple

from PIL import Image

from lladav.errors import UserError
from lladav.inputs.video_packets import BadVideo, Packets, list_packets

CONTAINERS = "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg,nut,ivf,h264,hevc,mpegvideo,m4v,rm"
"""Container formats that are read. Playlists are excluded: they make FFmpeg open other files and URLs."""
BUFFER_BYTES = 1 << 16
"""Bytes that FFmpeg reads at a time."""
MAX_FRAME_PIXELS = 1 << 26
"""Twice the 33 million pixels of an 8K frame."""


class Clip(NamedTuple):
    """Size in pixels, number of frames, and frames per second."""

    width: int
    height: int
    frames: int
    rate: float


class _Mismatch(Exception):
    """The decoded frames do not match the timestamps of the packets."""


class VideoFile:
    """A video file that is open for reading; close it after use.

    Methods raise ``BadVideo`` if the content is not a video or is truncated, ``UserError`` if PyAV is
    missing, and PyAV's own errors if it is damaged.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._size = stream, stream.seek(0, io.SEEK_END)
        self._wanted: set[int] = set()
        self._open()

    def close(self) -> None:
        """Release the decoder; the stream stays open."""
        self._container.close()

    def clip(self, is_counted: bool = False) -> Clip:
        """Return size, frames and rate. Counts the packets if the container does not list its frames, or if
        ``is_counted`` is set."""
        rate = self._video.average_rate or self._video.guessed_rate
        if not rate:
            raise BadVideo("the frame rate is unknown; convert the video to mp4")
        listed = 0 if is_counted else self._listed_frames
        frames = listed or len(self._packets.shown)
        if not frames:
            raise BadVideo("it has no frames")
        return Clip(self._video.width, self._video.height, frames, float(rate))

    def frames(self, wanted: Sequence[int]) -> Iterator[Image.Image]:
        """Yield the frames with these indices (ascending, may repeat) in RGB, rotated as the file says."""
        packets, found = self._packets, 0
        if wanted and wanted[-1] >= len(packets.shown):
            raise BadVideo(f"it ends before frame {wanted[-1]}")
        if packets.ordered:
            self._wanted = {packets.shown[number] for number in wanted}
            with suppress(_Mismatch):
                for number in wanted:
                    yield _image(self._frame_at(packets.shown[number]))
                    found += 1
        yield from self._counted(wanted[found:])

    def _open(self) -> None:
        self._stream.seek(0)
        av, options = _av(), {"format_whitelist": CONTAINERS}
        try:
            self._container = av.open(
                self._stream, mode="r", metadata_errors="ignore", options=options, buffer_size=BUFFER_BYTES
            )
        except av.FFmpegError as error:
            raise BadVideo(f"not a video of a known format, or damaged ({error.strerror})") from None
        video = self._container.streams.best("video")
        if video is None or video.codec_context is None:
            raise BadVideo("it has no video that can be decoded")
        if video.width * video.height > MAX_FRAME_PIXELS:
            raise BadVideo(f"a frame has {video.width}x{video.height} pixels, more than {MAX_FRAME_PIXELS}")
        video.codec_context.thread_count = 1
        self._video, self._decoded, self._last = video, iter(()), None

    @cached_property
    def _listed_frames(self) -> int:
        """The number of frames in the header of an mp4 or mov file; 0 for other and for fragmented files."""
        if "mov" not in self._container.format.name.split(",") or not self._video.frames:
            return 0
        frames = 0
        for entry in self._video.index_entries:
            if entry.pos + entry.size > self._size:
                raise BadVideo("it is cut short")
            frames += not entry.is_discard
        return frames

    @cached_property
    def _packets(self) -> Packets:
        return list_packets(self._container, self._video, is_whole=bool(self._listed_frames))

    def _frame_at(self, shown: int) -> Any:
        """The decoded frame with this timestamp."""
        if self._last is None or shown != self._last.pts:
            key = max(0, bisect.bisect_right(self._packets.keys, shown) - 1)
            if self._last is None or not self._packets.keys[key] <= self._last.pts < shown:
                self._decoded, self._last = self._frames_from(key), None
            self._last = self._next(shown)
        return self._last

    def _next(self, shown: int) -> Any:
        """Continue decoding up to the frame with this timestamp."""
        last = self._last
        for frame in self._decoded:
            if frame.pts is None or (last is not None and frame.pts <= last.pts) or frame.pts > shown:
                break
            if frame.pts == shown:
                return frame
            last = frame
        raise _Mismatch

    def _frames_from(self, key: int) -> Iterator[Any]:
        """Yield the frames from a keyframe on, except unneeded frames that no other frame depends on."""
        shown, start = self._packets.keys[key], self._packets.starts[key]
        self._container.seek(start, stream=self._video)
        reached = False
        for packet in self._container.demux(self._video):
            reached = reached or (packet.is_keyframe and packet.pts == shown)
            if reached:
                is_wanted = not packet.size or packet.pts in self._wanted
                self._video.codec_context.skip_frame = "DEFAULT" if is_wanted else "NONREF"
                yield from (frame for frame in packet.decode() if frame.pts is None or frame.pts >= shown)

    def _counted(self, wanted: Sequence[int]) -> Iterator[Image.Image]:
        """Yield the frames with these indices by decoding the file from its start."""
        if not wanted:
            return
        self.close()
        self._open()
        number, frames = -1, self._container.decode(self._video)
        frame = None
        for index in wanted:
            while number < index:
                frame = next(frames, None)
                if frame is None:
                    raise BadVideo(f"it ends before frame {index}")
                number += 1
            yield _image(frame)


def _image(frame: Any) -> Image.Image:
    if frame.is_corrupt:
        raise BadVideo("a frame is damaged")
    image, rotation = frame.to_image(), frame.rotation
    return image.rotate(rotation, expand=True) if rotation else image


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise UserError("reading videos needs the package av; run pip install av") from None
    return av
