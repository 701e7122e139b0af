"""Our HTTP/1.1 server: it reads a large body straight into the memory that the engine will read, and speaks ASGI.

Relies on asyncio and httptools; knows nothing of models. ``deps.serve.server`` starts and stops it.
"""
