"""LoRA adapters that are held beside each other on one base, and switched by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tkernel.errors import DataError, TkError
from tkernel.types.bundle import ModelBundle
from tkernel_plugins.adapters.adapter_folder import check_layers, check_names, read_adapter


class AdaptersByName:
    """Loads adapters into the layers of a bundle's module; the base weights stay as they are.

    Methods that change the module are called between two steps, by the thread that holds it.
    """

    def __init__(self, bundle: ModelBundle) -> None:
        self.bundle = bundle
        self.folders: dict[str, str] = {}
        self._peft: Any = None
        self._used: str | None = None

    def load(self, name: str, folder: str | Path) -> None:
        """Load the LoRA adapter in `folder` under `name`, in place of one of that name.

        Raises:
            TkError: no adapter, one that does not fit, or a module that has an adapter of its own to train.
        """
        from peft import PeftModel

        module = self.bundle.module
        if hasattr(module, "peft_config") and self._peft is None:
            raise TkError(
                f"{self.bundle.facts.name} has an adapter in it that is being trained; no other can be beside it"
            )
        read = read_adapter(str(folder), {})
        check_names(read, self.bundle.tokenizer)
        if self._peft is None:
            check_layers(read, module, self.bundle.facts.name)
            self._peft = PeftModel.from_pretrained(module, read.path, adapter_name=name)
        else:
            if name in self.folders:
                self.unload(name)
            if self._peft is None:
                return self.load(name, folder)
            self._peft.load_adapter(read.path, adapter_name=name)
        self._peft.eval()
        self.folders[name] = read.path
        self._used = name
        self.use(None)

    def unload(self, name: str) -> None:
        """Forget an adapter; with the last one the module is as it was."""
        self.check(name)
        del self.folders[name]
        if self.folders:
            self._peft.delete_adapter(name)
            self._used = None
            self._peft.base_model.disable_adapter_layers()
        else:
            self.close()

    def use(self, name: str | None) -> None:
        """Make the module compute with adapter `name`, or as it was loaded."""
        if self._peft is None or name == self._used:
            return
        if name is None:
            self._peft.base_model.disable_adapter_layers()
        else:
            self._peft.base_model.enable_adapter_layers()
            self._peft.set_adapter(name, inference_mode=True)
        self._used = name

    def check(self, name: str) -> None:
        """Raise `DataError` if there is no adapter of that name."""
        if name not in self.folders:
            known = ", ".join(sorted(self.folders)) or "none"
            raise DataError(f"there is no adapter {name!r}; there are: {known}")

    def close(self) -> None:
        """Take all adapters out of the module."""
        if self._peft is not None:
            self._peft.unload()
        self._peft, self._used, self.folders = None, None, {}
