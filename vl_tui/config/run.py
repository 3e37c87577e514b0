"""``run.yaml``: what a person submits."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, field_validator, model_validator
from vl_agent.protocol import HangPolicy, Market

from vl_tui.config import quantities
from vl_tui.config.check import Strict, check
from vl_tui.config.document import ConfigError, Document, read_document

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

Seconds = Annotated[float, BeforeValidator(quantities.duration)]


def _variable(key: str) -> str:
    if not _VARIABLE.fullmatch(key):
        raise ValueError(f"{quantities.shown(key)} is not a name of an environment variable: use A-Z, 0-9 and _.")
    if key.startswith("VL_"):
        raise ValueError(f"{key}: names that begin with VL_ are vl-tui's own; choose another.")
    return key


def _no_zero_byte(text: str) -> str:
    if "\0" in text:
        raise ValueError("holds a zero byte, which no environment can carry.")
    return text


Variable = Annotated[str, AfterValidator(_variable)]
EnvValue = Annotated[str, AfterValidator(_no_zero_byte)]


class Checkpoints(Strict):
    """Which folder the command saves into, how often, how many durable ones are kept."""

    path: str = Field(examples=["ckpt"])
    every: Annotated[Seconds, Field(ge=1)] | None = None
    keep: int | None = Field(None, ge=1, le=1000)
    """None: the fleet's default."""
    keep_every: int | None = Field(None, ge=1)
    """Also kept: the first durable checkpoint of each so many steps."""

    @field_validator("path")
    @classmethod
    def _inside(cls, value: str) -> str:
        path = PurePosixPath(value)
        if not value or "\0" in value or path.is_absolute() or ".." in path.parts or path == PurePosixPath("."):
            raise ValueError(
                f"{quantities.shown(value)} must be a folder inside the working folder: relative, without '..'."
            )
        return str(path)


class Resources(Strict):
    gpu: Annotated[str, BeforeValidator(quantities.gpu)] | None = None
    market: Market = "spot"


class RunConfig(Strict):
    """A validated ``run.yaml``. Durations in seconds, money in USD."""

    name: Annotated[str, BeforeValidator(quantities.name)] = Field(examples=["char-lm"])
    run: str = Field(examples=["python train.py"])
    """Run by ``/bin/sh -c`` in the working folder."""
    checkpoints: Checkpoints = Field(examples=["{path: ckpt}"])
    setup: str = ""
    workdir: str = "."
    resources: Resources = Resources()
    deadline: Annotated[datetime, BeforeValidator(quantities.moment)] | None = None
    budget: float | None = Field(None, gt=0, le=1e9)
    steps: int | None = Field(None, ge=1, lt=10**12)
    """How many steps the run has in all, where the person says so."""
    on_hang: HangPolicy = "restart"
    """When the command surely makes no more steps: start it anew from its newest checkpoint, or only say so."""
    env: dict[Variable, EnvValue] = {}
    secrets: Annotated[tuple[Variable, ...], Field(strict=False)] = ()
    _path: Path = PrivateAttr(Path("run.yaml"))
    _document: Document | None = PrivateAttr(None)

    @property
    def path(self) -> Path:
        """The file this was read from."""
        return self._path

    @property
    def workdir_path(self) -> Path:
        """The working folder on this machine: relative to the file's own folder."""
        return (self._path.parent / self.workdir).resolve()

    def wrong(self, key: str, words: str) -> ConfigError:
        """A complaint about the value of ``key`` that only whoever uses it can have."""
        if self._document is None:
            return ConfigError(f"{self._path}, {key}: {words}")
        return self._document.error((key,), words)

    @field_validator("run")
    @classmethod
    def _says_something(cls, value: str) -> str:
        if not value.strip() or "\0" in value:
            raise ValueError("must be the command that trains, is empty.")
        return value

    @field_validator("secrets")
    @classmethod
    def _named_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError("names a variable twice.")
        return value

    @model_validator(mode="after")
    def _not_both(self) -> RunConfig:
        both = sorted(set(self.env) & set(self.secrets))
        if both:
            raise ValueError(f"{both[0]} stands in both env and secrets: keep it in secrets only.")
        return self


def load_run(path: Path) -> RunConfig:
    """Read a ``run.yaml``. Raises ``ConfigError``, also when its working folder isn't there."""
    document = read_document(path)
    config = check(document, RunConfig)
    config._path, config._document = path, document
    if not config.workdir_path.is_dir():
        raise config.wrong("workdir", f"{config.workdir_path} is not a folder (paths start at the file's own).")
    return config
