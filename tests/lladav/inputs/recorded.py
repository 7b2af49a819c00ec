"""Small videos of numbered frames, in many containers and codecs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np
from PIL import Image

WIDTH, HEIGHT, BITS = 96, 64, 12
GOP = 10
QUIET = {"libx264": {"x264-params": "log-level=none"}, "libx265": {"x265-params": "log-level=none"}}


class Kind(NamedTuple):
    """A container and a codec, with their options; ``durations`` in ms for a variable frame rate."""

    container: str
    codec: str
    options: dict[str, str] = {}  # noqa: RUF012 - never changed
    muxing: dict[str, str] = {}  # noqa: RUF012
    b_frames: int | None = None
    durations: Sequence[int] = ()


OPEN_GOP = {"x264-params": "log-level=none:open-gop=1:bframes=3:b-pyramid=normal:scenecut=0:keyint=10"}
OPEN_HEVC = {"x265-params": "log-level=none:keyint=10:open-gop=1:bframes=3:scenecut=0"}
FAST = {"deadline": "realtime", "cpu-used": "8"}
KINDS = {
    "mp4 h264": Kind("mp4", "libx264"),
    "mp4 h264, open gop": Kind("mp4", "libx264", OPEN_GOP),
    "mp4 h264, fragments": Kind("mp4", "libx264", muxing={"movflags": "frag_keyframe+empty_moov"}),
    "mp4 h264, variable rate": Kind("mp4", "libx264", durations=(20, 40, 70, 33)),
    "mp4 hevc": Kind("mp4", "libx265"),
    "mp4 hevc, open gop": Kind("mp4", "libx265", OPEN_HEVC),
    "mp4 mpeg4": Kind("mp4", "mpeg4"),
    "webm vp8": Kind("webm", "libvpx", FAST),
    "webm vp9": Kind("webm", "libvpx-vp9", FAST),
    "webm vp9, alternate references": Kind(
        "webm", "libvpx-vp9", {"auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "8"}
    ),
    "webm vp9, variable rate": Kind("webm", "libvpx-vp9", FAST, durations=(20, 40, 70, 33)),
    "matroska h264": Kind("matroska", "libx264"),
    "matroska mpeg4": Kind("matroska", "mpeg4", b_frames=2),
    "avi mpeg4": Kind("avi", "mpeg4", b_frames=2),
    "avi mjpeg": Kind("avi", "mjpeg"),
    "avi h264": Kind("avi", "libx264"),
    "mpegts h264": Kind("mpegts", "libx264"),
    "mpegts mpeg2": Kind("mpegts", "mpeg2video", b_frames=2),
    "mpeg mpeg2": Kind("mpeg", "mpeg2video", b_frames=2),
    "flv h264": Kind("flv", "libx264"),
    "raw h264": Kind("h264", "libx264"),
}


def drawn(number: int) -> np.ndarray:
    """A frame with its number in black and white below a moving pattern."""
    random = np.random.default_rng(number // 25)
    pixels = np.roll(random.integers(0, 200, (HEIGHT, WIDTH, 3), np.uint8), number, 1)
    bits = [number >> bit & 1 for bit in range(BITS)]
    pixels[-24:] = np.repeat(np.array(bits, np.uint8) * 255, WIDTH // BITS)[None, :, None]
    return pixels


def number_of(image: Image.Image) -> int:
    """The number that a frame was drawn with."""
    row = np.asarray(image.convert("L"))[-18:-6].mean(0).reshape(BITS, -1)[:, 2:-2].mean(1)
    return sum(1 << bit for bit, level in enumerate(row) if level > 127)


def video(kind: Kind, frames: int = 60, rate: int = 25, rotation: int = 0) -> bytes:
    """The file with this number of frames."""
    stream = io.BytesIO()
    with av.open(stream, "w", format=kind.container, options=dict(kind.muxing)) as container:
        track: Any = container.add_stream(kind.codec, rate=rate)
        track.width, track.height = WIDTH, HEIGHT
        track.pix_fmt = "yuvj420p" if kind.codec == "mjpeg" else "yuv420p"
        track.codec_context.options = QUIET.get(kind.codec, {}) | kind.options
        track.codec_context.gop_size, track.codec_context.thread_count = GOP, 1
        if kind.b_frames is not None:
            track.codec_context.max_b_frames = kind.b_frames
        if kind.durations:
            track.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            track.set_display_rotation(rotation)
        at = 0
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(drawn(number), format="rgb24")
            if kind.durations:
                frame.pts, frame.time_base = at, Fraction(1, 1000)
                at += kind.durations[number % len(kind.durations)]
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return stream.getvalue()


def repacked(
    content: bytes, container: str, shift: int = 0, hide: int | None = None, first: int = 0
) -> bytes:
    """The same packets in another file, ``shift`` ticks earlier, from keyframe number ``first`` on.

    VP8's packet ``hide`` becomes one that gives no frame.
    """
    stream, keyframes = io.BytesIO(), -1
    with av.open(io.BytesIO(content), "r") as source, av.open(stream, "w", format=container) as target:
        track = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            keyframes += packet.is_keyframe
            if packet.dts is None or packet.pts is None or keyframes < first:
                continue
            if number == hide:
                hidden = bytes(packet)
                packet.update(bytes([hidden[0] & ~0x10]) + hidden[1:])
            packet.stream, packet.pts, packet.dts = track, packet.pts - shift, packet.dts - shift
            target.mux(packet)
    return stream.getvalue()


def everything(content: bytes) -> list[Image.Image]:
    """All frames of a file, decoded one after another."""
    with av.open(io.BytesIO(content), "r") as container:
        return [frame.to_image() for frame in container.decode(video=0)]
