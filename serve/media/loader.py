"""Turns the references of a request to images and videos into the views that the model gets.

Every byte here is untrusted. The size is checked before base64 is decoded, the number of images and videos in
``serve.api.planning.request_limits``. Base64, images and videos are
decoded in worker processes, which are killed if they take too long. A worker process imports this module, so
the module must not import torch.
"""

from __future__ import annotations

import asyncio
import io
import math
import os
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple, TypeVar, TypeVarTuple

import anyio
from anyio import BrokenWorkerProcess, CapacityLimiter, to_process
from PIL import Image, UnidentifiedImageError

from lladav.inputs.image_files import FORMATS, to_rgb
from lladav.inputs.images import ViewGeometry, image_kind, prepare_image
from lladav.inputs.samples import Visual, VisualKind
from serve.errors import ApiError
from serve.media.data_uris import (
    IMAGE,
    VIDEO,
    MediaKind,
    check_size,
    decoded_payload,
    invalid,
    pillow_limited,
    too_many_pixels,
)
from serve.media.fetching import Fetcher
from serve.media.videos import is_file, read_video
from serve.settings import FetchSettings, MediaSettings

START_SECONDS = 60.0
"""Limit for the start of a worker process, imports included."""

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")


class MediaReference(NamedTuple):
    """The URL of an image or a video, and the path of the request field with it."""

    url: str
    param: str
    is_video: bool = False


class MediaLoader:
    """Loads the images and videos of requests; one loader per event loop."""

    def __init__(
        self,
        media: MediaSettings,
        fetch: FetchSettings,
        geometry: ViewGeometry,
        *,
        fetcher: Fetcher | None = None,
    ) -> None:
        """``fetcher`` replaces the one that ``fetch`` describes."""
        self._media, self._geometry = media, geometry
        self._fetcher = fetcher or (Fetcher(fetch, media.image_bytes) if fetch.hosts else None)
        self._image_workers = WorkerPool(media.workers, media.seconds)
        self._video_workers = WorkerPool(media.workers, media.video_seconds)

    async def visuals(self, references: Sequence[MediaReference], frames: int) -> list[Visual]:
        """The views of a request's images, and at most ``frames`` frames of each of its videos.

        They are loaded one after another, so that a request holds at most one worker. Raises ``ApiError`` for
        the first that cannot be used.
        """
        self._check(references)
        kind = image_kind(sum(not each.is_video for each in references))
        seen: dict[tuple[str, bool], Visual] = {}
        for url, param, is_video in references:
            if (url, is_video) not in seen:
                load = self._video(url, frames, param) if is_video else self._image(url, kind, param)
                seen[url, is_video] = await load
        return [seen[each.url, each.is_video] for each in references]

    def _check(self, references: Sequence[MediaReference]) -> None:
        """Check what needs no decoding or fetching."""
        for url, param, is_video in references:
            if is_video:
                self._check_video(url, param)
            elif _is_remote(url):
                self._fetcher_for(param)
            else:
                check_size(url, param, IMAGE, self._media.image_bytes)

    def _check_video(self, url: str, param: str) -> None:
        if not is_file(url):
            check_size(url, param, VIDEO, self._media.video_bytes)
        elif not self._media.directories:
            message = f"{param}: this server reads no files; send a base64 data URI"
            raise ApiError(400, message, code="files_disabled", param=param)

    def _fetcher_for(self, param: str) -> Fetcher:
        if self._fetcher is None:
            message = f"{param}: this server does not fetch images; send a base64 data URI"
            raise ApiError(400, message, code="fetch_disabled", param=param)
        return self._fetcher

    async def _image(self, url: str, kind: VisualKind, param: str) -> Visual:
        # A worker decodes the base64 of a data URI.
        content = await self._fetcher_for(param).fetch(url, param) if _is_remote(url) else url
        arguments = (content, kind, self._geometry, self._media.pixels, param)
        return await _decoded(self._image_workers, IMAGE, param, read, *arguments)

    async def _video(self, url: str, frames: int, param: str) -> Visual:
        arguments = (url, self._media.directories, frames, self._geometry, self._media.pixels, param)
        return await _decoded(self._video_workers, VIDEO, param, read_video, *arguments)


async def _decoded(
    pool: WorkerPool,
    kind: MediaKind,
    param: str,
    function: Callable[[*Arguments], Visual],
    *arguments: *Arguments,
) -> Visual:
    """What the function returns in a worker; raises ``ApiError`` if the worker fails."""
    try:
        return await pool.run(function, *arguments)
    except WorkerTimeout:
        message = f"{param}: decoding took longer than {pool.seconds:g} s; send a smaller {kind.name}"
        raise ApiError(400, message, code=f"{kind.name}_timeout", param=param) from None
    except BrokenWorkerProcess:
        raise invalid(param, "the decoder process died", kind) from None
    except OSError:
        raise _unavailable() from None


def _is_remote(url: str) -> bool:
    return url[:8].lower().startswith(("http://", "https://"))


class WorkerTimeout(Exception):
    """A call exceeded the time limit of its pool; its process was killed."""


class WorkerPool:
    """Runs functions in worker processes that are killed when they take too long."""

    def __init__(self, workers: int, seconds: float) -> None:
        self.seconds = seconds
        self._semaphore = asyncio.Semaphore(workers)
        self._owner: asyncio.Task[None] | None = None
        self._pool_exists = asyncio.Event()

    async def run(self, function: Callable[[*Arguments], Result], *args: *Arguments) -> Result:
        """Return what the function returns, or raise what it raises.

        The time limit excludes the wait for a worker and its start. Cancellation kills a running call, but
        not the start of a worker: if all callers had short deadlines, no worker would ever be started.

        Raises ``WorkerTimeout``, anyio's ``BrokenWorkerProcess`` if the process dies, and ``ApiError`` 503 if
        no process can be started.
        """
        await self._semaphore.acquire()
        start = asyncio.create_task(self._start_worker())
        try:
            await asyncio.shield(start)
            with anyio.move_on_after(self.seconds):
                return await _in_worker(function, *args)
        finally:
            start.add_done_callback(lambda _: self._semaphore.release())
        raise WorkerTimeout

    async def _start_worker(self) -> None:
        """Ensure that an idle worker process exists and has imported this module."""
        if self._owner is None:
            self._owner = asyncio.create_task(self._own_pool())
        await self._pool_exists.wait()
        try:
            await _warm_up()
        except (BrokenWorkerProcess, OSError):
            raise _unavailable() from None

    async def _own_pool(self) -> None:
        """Use the pool first and never end.

        anyio kills the processes of an event loop when the task that used the first one ends. Without this
        task that would be the task of a request.
        """
        with suppress(BrokenWorkerProcess, OSError):
            await _warm_up()
        self._pool_exists.set()
        await asyncio.sleep(math.inf)


class HiddenMain:
    """A context in which the main module has no file, for any number of tasks and threads at a time.

    anyio runs that file in each worker. No decoder needs it; that of a Ray worker imports ray, which takes a
    second, and fails in Python 3.13: ``pdb`` needs the main module, which anyio has removed.
    """

    def __init__(self) -> None:
        self._lock, self._users, self._file = threading.Lock(), 0, None

    def __enter__(self) -> None:
        with self._lock:
            if not self._users:
                self._file = vars(sys.modules["__main__"]).pop("__file__", None)
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users and self._file is not None:
                vars(sys.modules["__main__"])["__file__"] = self._file


_HIDDEN_MAIN = HiddenMain()


async def _warm_up() -> None:
    """Raises ``TimeoutError``, an ``OSError``, if the process does not start in time."""
    with anyio.fail_after(START_SECONDS), _HIDDEN_MAIN:
        await _in_worker(_redirect_stderr)


async def _in_worker(function: Callable[[*Arguments], Result], *args: *Arguments) -> Result:
    return await to_process.run_sync(function, *args, cancellable=True, limiter=CapacityLimiter(1))


def _redirect_stderr() -> None:
    """Send stderr to /dev/null: nothing reads the pipe, and a decoder that fills it would block."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    os.close(sink)


def read(content: bytes | str, kind: VisualKind, geometry: ViewGeometry, pixels: int, param: str) -> Visual:
    """The views of an image, from the bytes of a file or from a base64 data URI. Runs in a worker."""
    if isinstance(content, str):
        content = decoded_payload(content, param, IMAGE)
    return decode(content, kind, geometry, pixels, param)


def decode(content: bytes, kind: VisualKind, geometry: ViewGeometry, pixels: int, param: str) -> Visual:
    """The views of an encoded image of at most ``pixels`` pixels. Runs in a worker.

    Raises only ``ApiError``.
    """
    try:
        with pillow_limited(pixels), Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > pixels:
                raise too_many_pixels(param, pixels, IMAGE)
            return prepare_image(to_rgb(image, geometry.pixels), kind, geometry)
    except ApiError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise too_many_pixels(param, pixels, IMAGE) from None
    except UnidentifiedImageError:
        raise invalid(param, "not an image of a supported format", IMAGE) from None
    except Exception:  # noqa: BLE001 - decoders raise anything on damaged files
        raise invalid(param, "damaged or truncated", IMAGE) from None


def _unavailable() -> ApiError:
    message = "no decoder process could be started; try again"
    return ApiError(503, message, code="decoder_unavailable", retry_after=1.0)
