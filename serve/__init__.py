"""Serve bundles on devices: manifest, targets, engines, batching, and the Open Inference Protocol over HTTP.

Relies on ``deps.ground`` and the base install, never on torch. The names below are loaded when they are first used, so
that reading a target costs no web server.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deps.serve.bundle import Bundle, read_bundle
    from deps.serve.choose import Choice, load_engine
    from deps.serve.engines.base import Engine
    from deps.serve.engines.builder import BuildSettings, build_engine
    from deps.serve.http import create_app
    from deps.serve.manifest import Manifest, model_file, write_manifest
    from deps.serve.repository import Repository
    from deps.serve.service import ServeOptions, Service
    from deps.serve.targets import Target, get_target, load_targets

_HOMES = {
    "Bundle": "bundle",
    "BuildSettings": "engines.builder",
    "Choice": "choose",
    "Engine": "engines.base",
    "Manifest": "manifest",
    "Repository": "repository",
    "ServeOptions": "service",
    "Service": "service",
    "Target": "targets",
    "build_engine": "engines.builder",
    "create_app": "http",
    "get_target": "targets",
    "load_engine": "choose",
    "load_targets": "targets",
    "model_file": "manifest",
    "read_bundle": "bundle",
    "write_manifest": "manifest",
}

__all__ = [
    "BuildSettings",
    "Bundle",
    "Choice",
    "Engine",
    "Manifest",
    "Repository",
    "ServeOptions",
    "Service",
    "Target",
    "build_engine",
    "create_app",
    "get_target",
    "load_engine",
    "load_targets",
    "model_file",
    "read_bundle",
    "write_manifest",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
