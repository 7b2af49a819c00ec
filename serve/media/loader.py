"""Turns the image references of a request into the views that the model gets.

Every byte here is untrusted. The size is checked before base64 is decoded, the number of images in
``serve.api.request_limits``. Base64 and images are
decoded in worker processes, which are killed if they take too long. A worker process imports this module, so
the module must not import torch.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TypeVar, TypeVarTuple

import anyio
from anyio import BrokenWorkerProcess, CapacityLimiter, to_process
from PIL import Image, UnidentifiedImageError

from lladav.inputs.image_files import FORMATS, to_rgb
from lladav.inputs.images import ViewGeometry, image_kind, prepare_image
from lladav.inputs.samples import Visual, VisualKind
from serve.errors import ApiError
from serve.media.fetching import Fetcher
from serve.settings import FetchSettings, MediaSettings

MEDIA_TYPES = {f"image/{name}" for name in "png jpeg jpg webp gif bmp x-ms-bmp tiff".split()}
FIX = f"send a complete {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file"

MAX_URI_PREFIX = 200
"""Characters of a data URI before its base64 data, at most."""
START_SECONDS = 60.0
"""Limit for the start of a worker process, imports included."""

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")


class MediaLoader:
    """Loads the images of requests; one loader per event loop."""

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
        self._pool = WorkerPool(media.workers, media.seconds)

    async def visuals(self, references: Sequence[tuple[str, str]]) -> list[Visual]:
        """The views of a request's images; ``references`` are (URL, path of the request field).

        Images are loaded one after another, so that a request holds at most one worker. Raises ``ApiError``
        for the first image that cannot be used.
        """
        self._check(references)
        kind = image_kind(len(references))
        seen: dict[str, Visual] = {}
        for url, param in references:
            if url not in seen:
                seen[url] = await self._visual(url, kind, param)
        return [seen[url] for url, _ in references]

    def _check(self, references: Sequence[tuple[str, str]]) -> None:
        """Check what needs no decoding or fetching."""
        for url, param in references:
            if _is_remote(url):
                self._fetcher_for(param)
            else:
                self._check_size(url, param)

    def _check_size(self, url: str, param: str) -> None:
        length = len(url) - _payload_start(url, param)
        limit, size = self._media.image_bytes, length // 4 * 3 - url[-2:].count("=")
        if size > limit:
            raise _too_large(param, f"{size} bytes; an image may have {limit} at most")

    def _fetcher_for(self, param: str) -> Fetcher:
        if self._fetcher is None:
            message = f"{param}: this server does not fetch images; send a base64 data URI"
            raise ApiError(400, message, code="fetch_disabled", param=param)
        return self._fetcher

    async def _visual(self, url: str, kind: VisualKind, param: str) -> Visual:
        content = await self._content(url, param)
        try:
            return await self._pool.run(read, content, kind, self._geometry, self._media.pixels, param)
        except WorkerTimeout:
            message = f"{param}: decoding took longer than {self._media.seconds:g} s; send a smaller image"
            raise ApiError(400, message, code="image_timeout", param=param) from None
        except BrokenWorkerProcess:
            raise _invalid(param, "the decoder process died") from None
        except OSError:
            raise _unavailable() from None

    async def _content(self, url: str, param: str) -> bytes | str:
        """The fetched file, or the data URI itself: a worker decodes its base64."""
        return await self._fetcher_for(param).fetch(url, param) if _is_remote(url) else url


def _is_remote(url: str) -> bool:
    return url[:8].lower().startswith(("http://", "https://"))


def _payload_start(url: str, param: str) -> int:
    """Index of the first base64 character of a data URI."""
    start = url.find(",", 0, MAX_URI_PREFIX) + 1
    scheme, _, description = url[: max(0, start - 1)].lower().partition(":")
    media_type, *parameters = (part.strip() for part in description.split(";"))
    if scheme != "data" or "base64" not in parameters or start == len(url):
        raise _invalid(param, "not a base64 data URI", "send data:image/png;base64,... or similar")
    if media_type not in MEDIA_TYPES:
        raise _invalid(param, "unsupported media type", FIX)
    return start


class WorkerTimeout(Exception):
    """A call exceeded the time limit of its pool; its process was killed."""


class WorkerPool:
    """Runs functions in worker processes that are killed when they take too long."""

    def __init__(self, workers: int, seconds: float) -> None:
        self._semaphore, self._seconds = asyncio.Semaphore(workers), seconds
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
            with anyio.move_on_after(self._seconds):
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


async def _warm_up() -> None:
    """Raises ``TimeoutError``, an ``OSError``, if the process does not start in time."""
    with anyio.fail_after(START_SECONDS):
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
        try:
            content = base64.b64decode(content[_payload_start(content, param) :], validate=True)
        except (binascii.Error, ValueError):
            raise _invalid(param, "not base64", "send padded base64 without spaces or line breaks") from None
    return decode(content, kind, geometry, pixels, param)


def decode(content: bytes, kind: VisualKind, geometry: ViewGeometry, pixels: int, param: str) -> Visual:
    """The views of an encoded image of at most ``pixels`` pixels. Runs in a worker.

    Raises only ``ApiError``.
    """
    try:
        with _pillow_limited(pixels), Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > pixels:
                raise _too_many_pixels(param, pixels)
            return prepare_image(to_rgb(image, geometry.pixels), kind, geometry)
    except ApiError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_many_pixels(param, pixels) from None
    except UnidentifiedImageError:
        raise _invalid(param, "not an image of a supported format") from None
    except Exception:  # noqa: BLE001 - decoders raise anything on damaged files
        raise _invalid(param, "damaged or truncated") from None


@contextmanager
def _pillow_limited(pixels: int) -> Iterator[None]:
    """Make Pillow enforce the limit, too: it also checks frames and tiles larger than the header says."""
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        Image.MAX_IMAGE_PIXELS = pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _invalid(param: str, reason: str, fix: str = FIX) -> ApiError:
    return ApiError(400, f"{param}: {reason}; {fix}", code="invalid_image", param=param)


def _too_large(param: str, reason: str) -> ApiError:
    return ApiError(413, f"{param}: {reason}; send a smaller image", code="image_too_large", param=param)


def _too_many_pixels(param: str, pixels: int) -> ApiError:
    return _too_large(param, f"more than {pixels} pixels")


def _unavailable() -> ApiError:
    message = "no image decoder process could be started; try again"
    return ApiError(503, message, code="decoder_unavailable", retry_after=1.0)
