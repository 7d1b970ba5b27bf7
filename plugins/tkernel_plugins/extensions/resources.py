"""Extension `resources`: what loading, adapting and training cost in memory and time."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from tkernel import ModelBundle, StageResult, hookimpl
from tkernel.types.requests import AdapterRequest, ModelRequest, StageRequest


class Resources:
    """Wraps three hooks; prints a table when training ends and writes `output_dir/resources.json`.

    Active with `--plugin resources`, `plugins: [resources]` or `use_resources: true`.
    """

    name = "resources"

    def __init__(self) -> None:
        self._report: Any = None

    @hookimpl(wrapper=True)
    def load_model(self, request: ModelRequest) -> Generator[None, ModelBundle, ModelBundle]:
        """Measure loading; that of the policy begins a new report."""
        if request.role == "policy":
            self._report = None
        with self._open().measure(f"load_model {request.role}"):
            return (yield)

    @hookimpl(wrapper=True)
    def adapt(
        self, bundle: ModelBundle, request: AdapterRequest
    ) -> Generator[None, ModelBundle, ModelBundle]:
        """Measure adapting."""
        with self._open().measure("adapt"):
            return (yield)

    @hookimpl(wrapper=True)
    def train_stage(self, request: StageRequest) -> Generator[None, StageResult, StageResult]:
        """Measure training, count steps, samples and tokens, and show the table."""
        from tkernel_plugins.extensions.resource_throughput import Throughput

        throughput = Throughput()
        request.slots.put("callbacks", throughput, by=self.name)
        report = self._open()
        with report.measure("train_stage"):
            result = yield
        self._report = None
        report.finish(throughput.rates(), result.output_dir)
        return result

    def _open(self) -> Any:
        """The report of this run."""
        from tkernel_plugins.extensions.resource_report import ResourceReport

        if self._report is None:
            self._report = ResourceReport()
        return self._report


EXTENSION = Resources()
