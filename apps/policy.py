"""What a person at a browser may ask of the machine that serves the page.

The operator decides: which models and folders, how long, how many. Code that a checkpoint brings
(pickle, remote code) is never allowed from the web, whatever the operator says.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from workbench import zoo
from workbench.errors import SettingsError
from workbench.settings import ControlView, Settings

#: String controls that name no file.
_NOT_A_PLACE = ("compute.device",)
#: Words that string controls take and that name no file either.
_WORDS = ("", "auto", "bundled", "none", "self")
NEVER = ("model.allow_pickle", "model.trust_remote_code")


@dataclass(frozen=True)
class Policy:
    """``folders``: roots that models may be opened from; ``hub``: allow hub ids (they download).

    ``max_upload_bytes``: replayed bundles and settings files. ``max_waiting``: runs that one user
    may have in the queue. ``max_users``: workspaces alive at once."""

    folders: tuple[Path, ...] = ()
    hub: bool = False
    max_prompt_characters: int = 20_000
    max_new_tokens: int = 4096
    max_batch: int = 16
    max_waiting: int = 8
    max_users: int = 64
    max_upload_bytes: int = 32 << 20

    def check(self, settings: Settings) -> None:
        """Raises SettingsError with one sentence when a web user may not have this."""
        for view in settings.controls():
            if view.path in NEVER and view.value:
                raise SettingsError(f"{view.path} runs code from a checkpoint, so it cannot be "
                                    "switched on from the browser; use the notebook or the command "
                                    "line on the machine itself")
            if view.kind == "string" and view.path not in _NOT_A_PLACE:
                self._check_text(settings, view)
        self._check_size("limits.max_new_tokens", settings.limits.max_new_tokens,
                         self.max_new_tokens)
        self._check_size("limits.batch", settings.limits.batch, self.max_batch)

    def _check_text(self, settings: Settings, view: ControlView) -> None:
        """A place, or a list of techniques whose own texts are places."""
        part, _, knob = view.path.partition(".")
        technique = getattr(settings, part)
        listed = technique.named() if hasattr(technique, "named") else {}
        if knob not in listed:
            return self.check_place(view.path, str(view.value))
        for one in listed[knob]:
            if one.named():
                raise SettingsError(f"{view.path} names {one.name()}, which lists techniques itself; name "
                                    "plain ones")
            for control in one.controls():
                if control.type is str and not control.choices:
                    self.check_place(f"{view.path} {one.name()}.{control.name}", getattr(one, control.name))
        return None

    def check_place(self, name: str, value: str) -> None:
        """A bundled model, a word like ``auto``, or a path inside an allowed folder."""
        if value in _WORDS or value in zoo.names():
            return
        if self._inside(value):
            return
        if self.hub and not value.startswith((".", "/", "~")) and value.count("/") == 1 \
                and not Path(value).exists():
            return
        places = ", ".join(["bundled", *zoo.names(), *(f"folders in {f}" for f in self.folders)])
        raise SettingsError(f"{name}={value!r} is not open to the browser; this server offers "
                            f"{places} (its operator can add folders with --models)")

    def check_prompt(self, prompt: str) -> None:
        if len(prompt) > self.max_prompt_characters:
            raise SettingsError(f"the prompt has {len(prompt):,} characters; this server takes at "
                                f"most {self.max_prompt_characters:,}")

    def check_waiting(self, waiting: int) -> None:
        if waiting >= self.max_waiting:
            raise SettingsError(f"{waiting} of your runs are waiting already, the most that this "
                                "server takes from one user; cancel one or wait")

    def models(self) -> list[str]:
        """What the model control offers: bundled models and what lies in the allowed folders."""
        found = ["bundled", *zoo.names()]
        for folder in self.folders:
            if (folder / "config.json").is_file():
                found.append(str(folder))
            elif folder.is_dir():
                found += [str(p.parent) for p in sorted(folder.glob("*/config.json"))]
        return list(dict.fromkeys(found))

    def hidden(self, view: ControlView) -> bool:
        """Controls that the page does not show at all."""
        return view.path in NEVER or (view.path == "model.weights" and not self.folders)

    def _inside(self, value: str) -> bool:
        """Whether the path, links followed, lies in an allowed folder."""
        try:
            path = Path(value).expanduser().resolve()
        except (OSError, RuntimeError, ValueError):
            return False
        return any(path.is_relative_to(folder.resolve()) for folder in self.folders)

    @staticmethod
    def _check_size(name: str, value: int, most: int) -> None:
        if value > most:
            raise SettingsError(f"{name}={value} is more than this server allows; "
                                f"choose at most {most}")
