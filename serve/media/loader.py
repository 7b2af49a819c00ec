"""From the image references of a request to the views that the model sees.

Every byte here comes from a stranger. Count and size are checked before base64 is decoded; whatever reads
the bytes of an image does so in a process of its own, which is killed when it takes too long. That process
imports this module: it must not pull torch in.
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
from lladav.inputs.types import Visual, VisualKind
from serve.errors import ApiError
from serve.media.fetching import Fetcher
from serve.settings import FetchSettings, MediaSettings

MEDIA_TYPES = {f"image/{name}" for name in "png jpeg jpg webp gif bmp x-ms-bmp tiff".split()}
FIX = f"send a whole {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file"

HEAD = 200
"""Characters of a data URI before its base64, at most."""

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")


class MediaLoader:
    """Reads the images of requests; one for each event loop."""

    def __init__(
        self,
        media: MediaSettings,
        fetch: FetchSettings,
        geometry: ViewGeometry,
        *,
        fetcher: Fetcher | None = None,
    ) -> None:
        """``fetcher`` stands in for the one that ``fetch`` describes."""
        self._media, self._geometry = media, geometry
        self._fetcher = fetcher or (Fetcher(fetch, media.image_bytes) if fetch.hosts else None)
        self._pool = WorkerPool(media.workers, media.seconds)

    async def visuals(self, references: Sequence[tuple[str, str]]) -> list[Visual]:
        """The views of a request's images, given as (URL, path of the field that names it).

        They are read one after another, so that a request never holds more than one worker. Raises
        ``ApiError`` for the first image that cannot be used.
        """
        self._check(references)
        kind = image_kind(len(references))
        seen: dict[str, Visual] = {}
        for url, param in references:
            if url not in seen:
                seen[url] = await self._visual(url, kind, param)
        return [seen[url] for url, _ in references]

    def _check(self, references: Sequence[tuple[str, str]]) -> None:
        """Everything that can be refused without decoding or fetching anything."""
        limit = self._media.images
        if len(references) > limit:
            message = f"{len(references)} images are more than the {limit} of a request; send fewer"
            raise ApiError(400, message, code="too_many_images", param=references[limit][1])
        for url, param in references:
            if _is_remote(url):
                self._fetcher_for(param)
            else:
                self._check_size(url, param)

    def _check_size(self, url: str, param: str) -> None:
        length = len(url) - _payload_start(url, param)
        limit, size = self._media.image_bytes, length // 4 * 3 - url[-2:].count("=")
        if size > limit:
            raise _too_large(param, f"{size} bytes are more than the {limit} of an image")

    def _fetcher_for(self, param: str) -> Fetcher:
        if self._fetcher is None:
            message = f"{param}: images are not fetched by this server; send a data URI with base64"
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
            raise _invalid(param, "decoding it ended the decoder") from None
        except OSError:
            raise _unavailable() from None

    async def _content(self, url: str, param: str) -> bytes | str:
        """The file that was fetched, or the data URI, whose base64 a worker decodes."""
        return await self._fetcher_for(param).fetch(url, param) if _is_remote(url) else url


def _is_remote(url: str) -> bool:
    return url[:8].lower().startswith(("http://", "https://"))


def _payload_start(url: str, param: str) -> int:
    """Where the base64 part of a data URI begins."""
    start = url.find(",", 0, HEAD) + 1
    scheme, _, described = url[: max(0, start - 1)].lower().partition(":")
    media_type, *parameters = (part.strip() for part in described.split(";"))
    if scheme != "data" or "base64" not in parameters or start == len(url):
        raise _invalid(param, "not a data URI with base64", "send data:image/png;base64,... or the like")
    if media_type not in MEDIA_TYPES:
        raise _invalid(param, "not of a media type that is read", FIX)
    return start


class WorkerTimeout(Exception):
    """A call took longer than its pool allows; its process was killed."""


class WorkerPool:
    """Calls functions in processes that are killed when they take too long."""

    def __init__(self, workers: int, seconds: float) -> None:
        self._slots, self._seconds = asyncio.Semaphore(workers), seconds
        self._owner: asyncio.Task[None] | None = None
        self._opened = asyncio.Event()

    async def run(self, function: Callable[[*Arguments], Result], *args: *Arguments) -> Result:
        """What the function returns or raises. Neither the wait for a worker nor its start counts as time.

        A call that is cancelled is killed, but a start goes on for whoever comes next: when time is short for
        all, nobody would ever find a worker.

        Raises ``WorkerTimeout``, anyio's ``BrokenWorkerProcess`` for a process that dies, and ``ApiError``
        503 where none can be started.
        """
        await self._slots.acquire()
        start = asyncio.create_task(self._start())
        try:
            await asyncio.shield(start)
            with anyio.move_on_after(self._seconds):
                return await _in_worker(function, *args)
        finally:
            start.add_done_callback(lambda _: self._slots.release())
        raise WorkerTimeout

    async def _start(self) -> None:
        """See that a process is waiting, with this module imported.

        anyio ends all processes of an event loop with the task that first used one, which in a loop that runs
        forever would be a request's; so a task that never ends is the first.
        """
        if self._owner is None:
            self._owner = asyncio.create_task(self._own())
        await self._opened.wait()
        try:
            await _in_worker(_settle)
        except (BrokenWorkerProcess, OSError):
            raise _unavailable() from None

    async def _own(self) -> None:
        with suppress(BrokenWorkerProcess, OSError):
            await _in_worker(_settle)
        self._opened.set()
        await asyncio.sleep(math.inf)


async def _in_worker(function: Callable[[*Arguments], Result], *args: *Arguments) -> Result:
    return await to_process.run_sync(function, *args, cancellable=True, limiter=CapacityLimiter(1))


def _settle() -> None:
    """Nobody reads a worker's stderr: a library that writes much to it would stop for good."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    os.close(sink)


def read(content: bytes | str, kind: VisualKind, geometry: ViewGeometry, pixels: int, param: str) -> Visual:
    """The views of an image: of a file, or of a data URI with base64; runs in a worker."""
    if isinstance(content, str):
        try:
            content = base64.b64decode(content[_payload_start(content, param) :], validate=True)
        except (binascii.Error, ValueError):
            raise _invalid(param, "not base64", "send padded base64 without spaces or line ends") from None
    return decode(content, kind, geometry, pixels, param)


def decode(content: bytes, kind: VisualKind, geometry: ViewGeometry, pixels: int, param: str) -> Visual:
    """The views of an encoded image of at most ``pixels``; runs in a worker.

    Raises ``ApiError``, and nothing else.
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
        raise _invalid(param, "not an image of a known format") from None
    except Exception:  # noqa: BLE001 - damaged files make decoders raise anything
        raise _invalid(param, "damaged or cut off") from None


@contextmanager
def _pillow_limited(pixels: int) -> Iterator[None]:
    """Pillow's own limit is ours, and final: it also sees frames and tiles larger than the header says."""
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
    return ApiError(413, f"{param}: {reason}; send a smaller one", code="image_too_large", param=param)


def _too_many_pixels(param: str, pixels: int) -> ApiError:
    return _too_large(param, f"it has more than {pixels} pixels")


def _unavailable() -> ApiError:
    message = "no process for decoding images could be started; try again"
    return ApiError(503, message, code="decoder_unavailable", retry_after=1.0)
