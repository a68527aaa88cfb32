"""How a run is computed: chosen once, written into its folder and read back, so that its bits stay the same."""

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_args

import torch

from oracle.errors import FolderError
from oracle.storage import Folder
from oracle.training.backends import Backend

FILE = "settings.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What decides bits beside the experiment."""

    backend: Backend
    device: str  # "cpu" or "cuda"
    pack_size: int  # candidates a pack at most
    threads: int  # of one candidate or pack
    versions: Mapping[str, str]

    def to_json(self) -> str:
        """As settings.json holds it, with a checksum."""
        return json.dumps(asdict(self) | {"sha256": _checksum(asdict(self))}, indent=2)

    @classmethod
    def from_json(cls, text: bytes) -> "Settings":
        """Read what `to_json` wrote. Raises ValueError, TypeError, AttributeError or RecursionError on anything else."""
        fields = json.loads(text)
        if fields.pop("sha256", None) not in {None, _checksum(fields)}:  # none: written by an older version
            raise ValueError("not what was written")
        settings = cls(**fields)
        counts = (settings.pack_size, settings.threads)
        if (
            settings.backend not in get_args(Backend)
            or settings.device not in {"cpu", "cuda"}
            or not all(type(count) is int and count > 0 for count in counts)
            or not isinstance(settings.versions, dict)
        ):
            raise ValueError(f"values that no search writes: {fields}")
        return settings


def _checksum(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()


def versions() -> dict[str, str]:
    """What decides the bits beside the settings, as it is on this machine."""
    return {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine()}


def read_settings(folder: Folder) -> Settings | None:
    """How the folder's run is computed; None where it has not begun. FolderError where its file cannot be read."""
    content = folder.read(FILE)
    try:
        return None if content is None else Settings.from_json(content)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise FolderError(
            f"{folder / FILE}: cannot be read ({error}). It holds how this run is computed; delete it to have that "
            "chosen anew: what is finished stays, the last digits of what follows may differ"
        ) from None


def write_settings(folder: Folder, settings: Settings) -> None:
    """Write them: once, before anything is trained."""
    folder.write(FILE, settings.to_json().encode())
