"""The types of what the fixtures of this folder give."""

from collections.abc import Awaitable, Callable

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

Serve = Callable[[Handler], Awaitable[str]]
"""Serves any POST with a handler; gives the base URL."""

Say = Callable[[str], Awaitable[bytes]]
"""Speaks a text into 16 kHz mono s16le, with silence before and after."""
