"""The packets of a video file: the timestamps of its frames and of the keyframes to decode them from.

Packets are read but not decoded. A list takes 8 bytes per frame: a few megabytes for hours of video.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

VP8_SHOWN = 0x10
"""Bit in the first byte of a VP8 packet that gives a visible frame."""
MIN_MISSING_SECONDS, MISSING_FRACTION = 0.3, 0.05
"""A file is truncated if more than both of these is missing between its last packet and the duration in its
header."""


class BadVideo(Exception):
    """A video cannot be read. The message gives the reason without the name of the file."""


@dataclass
class Packets:
    """The timestamps of the frames: ``shown`` is in file order until ``close``, then in display order.

    ``keys`` are the timestamps of the keyframes, ``starts`` the position to seek to for each keyframe.
    ``ordered`` is False if timestamps are missing or do not give the display order.
    """

    shown: array[int] = field(default_factory=lambda: array("q"))
    keys: array[int] = field(default_factory=lambda: array("q"))
    starts: array[int] = field(default_factory=lambda: array("q"))
    ordered: bool = True

    def add(self, packet: Any) -> None:
        """Add the frame of a packet, unless it depends on a frame before the first keyframe."""
        if not self.keys and not packet.is_keyframe:
            return
        self.ordered = self.ordered and packet.pts is not None
        shown = packet.pts or 0
        if packet.is_keyframe:
            self.keys.append(shown)
            self.starts.append(shown if packet.dts is None else packet.dts)
        if shown >= self.keys[0]:
            self.shown.append(shown)

    def close(self, is_numbered: bool) -> None:
        """Sort the frames by display order. ``is_numbered``: the timestamps may be mere file order."""
        stored, self.shown = self.shown, array("q", sorted(self.shown))
        unique = all(before < after for before, after in pairwise(self.shown))
        keys_in_order = all(before < after for before, after in pairwise(self.keys))
        in_order = is_numbered and all(a == b for a, b in zip(stored, self.shown, strict=True))
        self.ordered = self.ordered and unique and keys_in_order and not in_order


def list_packets(container: Any, video: Any, is_whole: bool) -> Packets:
    """List the packets of the stream ``video``. Raises ``BadVideo`` if the file is truncated.

    ``is_whole`` skips this check for a file that is known to be complete.
    """
    packets, end, is_partial = Packets(), 0.0, False
    scale = {stream.index: float(stream.time_base or 0) for stream in container.streams}
    for packet in container.demux():
        if packet.pts is not None:
            ends = (packet.pts + (packet.duration or 0)) * scale[packet.stream_index]
            end, is_partial = max(end, ends), packet.is_corrupt
        if packet.stream_index == video.index and _gives_frame(packet, video):
            packets.add(packet)
    if not is_whole:
        _check_end(container, video, end, is_partial, len(packets.shown))
    # AVI files have no timestamps; FFmpeg numbers their packets.
    packets.close(is_numbered=container.format.name == "avi" and bool(video.codec_context.has_b_frames))
    return packets


def _gives_frame(packet: Any, video: Any) -> bool:
    if not packet.size or packet.is_discard:
        return False
    return video.codec_context.name != "vp8" or bool(memoryview(packet)[0] & VP8_SHOWN)


def _check_end(container: Any, video: Any, end: float, is_partial: bool, frames: int) -> None:
    """Raise ``BadVideo`` if the file ends inside a packet or before the end that its header states."""
    duration = (container.duration or 0) / 1e6
    if is_partial:
        raise BadVideo("it is cut short inside a frame")
    if duration - end > max(MIN_MISSING_SECONDS, MISSING_FRACTION * duration):
        raise BadVideo(f"it is cut short: {end:.1f} of {duration:.1f} s are there")
    if frames < video.frames * (1 - MISSING_FRACTION):
        raise BadVideo(f"it is cut short: {frames} of {video.frames} frames are there")
