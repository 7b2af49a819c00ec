"""Reading 32 frames of a video by seeking, compared with decoding all frames: seconds and peak memory.

    python tests/bench/bench_video.py
    python tests/bench/bench_video.py --minutes 0.167 120 --rounds 1

The benchmark writes h264 videos with B-frames and a keyframe every 250 frames, the defaults of x264, and
reads the 32 frames that inference takes of each. The other side decodes every frame and converts only those
32. Each measurement runs in a process of its own, so that its peak memory can be measured.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:1] = [str(ROOT), str(ROOT / "platform")]

import av  # noqa: E402 - the path comes first
import numpy as np  # noqa: E402

from lladav.config.schema import ModelConfig, Pixels  # noqa: E402
from lladav.inputs.clips import clip_frames  # noqa: E402
from lladav.inputs.images import ViewGeometry, inference_frames, prepare_video  # noqa: E402
from tests.bench.reporting import report, table  # noqa: E402

FRAMES = 32
RATE = 30
AGAINST = "decoding every frame and converting the wanted ones, with PyAV"
WAYS = ("seeking", "everything")


def write(file: Path, minutes: float, width: int, height: int) -> None:
    """Write a video of this length that repeats the same ten seconds."""
    part, times = io.BytesIO(ten_seconds(width, height)), round(minutes * 6)
    with av.open(part, "r") as source, av.open(str(file), "w") as target:
        track = target.add_stream_from_template(source.streams.video[0])
        length = source.streams.video[0].duration or 0
        for number in range(times):
            source.seek(0)
            for packet in source.demux(video=0):
                if packet.dts is not None and packet.pts is not None:
                    packet.stream = track
                    packet.pts, packet.dts = packet.pts + number * length, packet.dts + number * length
                    target.mux(packet)


def ten_seconds(width: int, height: int) -> bytes:
    """A video of moving noise in h264 with B-frames."""
    noise = np.random.default_rng(0).integers(0, 255, (height // 8, width // 8, 3), np.uint8)
    frame, stream = np.kron(noise, np.ones((8, 8, 1), np.uint8)), io.BytesIO()
    with av.open(stream, "w", format="mp4") as container:
        track = container.add_stream("libx264", rate=RATE, options={"preset": "fast"})
        track.width, track.height, track.pix_fmt = width, height, "yuv420p"
        for number in range(10 * RATE):
            moved = np.roll(frame, number, 1)
            container.mux(track.encode(av.VideoFrame.from_ndarray(moved, format="rgb24")))
        container.mux(track.encode(None))
    return stream.getvalue()


def take(way: str, file: Path) -> dict[str, float]:
    """Read the frames of one video; returns the seconds and the peak memory of this process in MB."""
    geometry, begin = ViewGeometry.of(ModelConfig()), time.perf_counter()
    with file.open("rb") as stream:
        if way == "seeking":
            frames = clip_frames(
                stream, lambda clip: inference_frames(clip.frames, FRAMES), file.name, Pixels.displayed
            )
            visual = prepare_video(frames, geometry)
        else:
            with av.open(stream, "r") as container:
                indices = set(inference_frames(container.streams.video[0].frames, FRAMES))
                container.streams.video[0].codec_context.thread_count = 1
                frames = enumerate(container.decode(video=0))
                visual = prepare_video((f.to_image() for n, f in frames if n in indices), geometry)
    assert len(visual.views) == FRAMES
    return {"seconds": time.perf_counter() - begin, "megabytes": peak_megabytes()}


def peak_megabytes() -> float:
    """Peak memory of this process; the value of getrusage would include that of the parent process."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    return int(line.split()[1]) / 1024


def measure(way: str, file: Path, rounds: int) -> dict[str, float]:
    """Medians over ``rounds`` runs, each in its own process."""
    command = [sys.executable, __file__, "--take", way, str(file)]
    runs = [json.loads(subprocess.check_output(command)) for _ in range(rounds)]
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def main() -> None:
    options = parse_options()
    if options.take:
        print(json.dumps(take(options.take[0], Path(options.take[1]))))
        return
    results: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for minutes in options.minutes:
            file = Path(folder, "video.mp4")
            write(file, minutes, options.width, options.height)
            results[f"{minutes:g}"] = {way: measure(way, file, options.rounds) for way in WAYS}
    rows = [
        [
            f"{float(minutes):.3g} min",
            *(f"{r[way][key]:.2f}" for key in ("seconds", "megabytes") for way in WAYS),
        ]
        for minutes, r in results.items()
    ]
    table(["video", *(f"{way}, {unit}" for unit in ("s", "MB") for way in WAYS)], rows)
    longest = list(results.values())[-1]
    gain = longest["everything"]["seconds"] / longest["seeking"]["seconds"]
    size = f"{options.width}x{options.height}"
    report("video_frames", gain, "x", AGAINST, frames=FRAMES, size=size, minutes=results)


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", nargs="+", type=float, default=[1 / 6, 1, 10])
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=360)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--take", nargs=2, metavar=("WAY", "FILE"), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
