"""The packets of a video file: how many frames it has, when each is shown, and from where it can be decoded.

Packets are read but not decoded. A list takes 8 bytes a frame, so a video of hours takes a few megabytes.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

VP8_SHOWN = 0x10
"""Bit of the first byte of a VP8 packet; without it the packet gives no frame."""
SHORTEST_GAP, GAP = 0.3, 0.05
"""A file whose packets end this long before its header says is cut short: in seconds, and as a fraction of
the duration."""


class BadVideo(Exception):
    """Why a file cannot be read, without its name."""


@dataclass
class Packets:
    """Timestamps of the frames, in the order in which they are stored until ``close``, then in display order.

    ``keys`` are those of the keyframes, ``starts`` what to seek to for each. ``ordered`` is false where
    timestamps are missing or do not tell the display order.
    """

    shown: array[int] = field(default_factory=lambda: array("q"))
    keys: array[int] = field(default_factory=lambda: array("q"))
    starts: array[int] = field(default_factory=lambda: array("q"))
    ordered: bool = True

    def add(self, packet: Any) -> None:
        """Count a packet, unless its frame needs one before the first keyframe."""
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
        """Put the frames in display order; ``is_numbered``: timestamps may be the order of storage."""
        stored, self.shown = self.shown, array("q", sorted(self.shown))
        unique = all(before < after for before, after in pairwise(self.shown))
        keys_in_order = all(before < after for before, after in pairwise(self.keys))
        in_order = is_numbered and all(a == b for a, b in zip(stored, self.shown, strict=True))
        self.ordered = self.ordered and unique and keys_in_order and not in_order


def list_packets(container: Any, video: Any, is_whole: bool) -> Packets:
    """The packets of the stream ``video`` of a container; raises ``BadVideo`` where the file is cut short.

    ``is_whole`` says that the end of the file is known to be there.
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
    """Raise ``BadVideo`` where the file ends inside a packet or before its header says so."""
    duration = (container.duration or 0) / 1e6
    if is_partial:
        raise BadVideo("it is cut short inside a frame")
    if duration - end > max(SHORTEST_GAP, GAP * duration):
        raise BadVideo(f"it is cut short: {end:.1f} of {duration:.1f} s are there")
    if frames < video.frames * (1 - GAP):
        raise BadVideo(f"it is cut short: {frames} of {video.frames} frames are there")
