"""What Beam works out anew for every transform, in the driver and in each worker, remembered: a third of what it costs.

Imported for its effect on signatures; `Options` is Beam's PipelineOptions.
"""

import types
import weakref
from collections.abc import Callable
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms import core

_Signature = tuple[list[str], list[Any]]


def _remember_signatures(work_out: Callable[[Any], _Signature]) -> Callable[[Any], _Signature]:
    """As `work_out`, which Beam has look at all 31 methods of a DoFn six times; nearly all are those of its base."""
    found: dict[Any, _Signature] = {}

    def remember(function: Any) -> _Signature:
        if not isinstance(function, types.MethodType):
            return work_out(function)
        key = function.__func__
        if key not in found:
            found[key] = work_out(function)
        names, defaults = found[key]
        return [*names], [*defaults]

    return remember


core.get_function_args_defaults = _remember_signatures(core.get_function_args_defaults)  # type: ignore[assignment]

_views: weakref.WeakKeyDictionary[Any, dict[type, Any]] = weakref.WeakKeyDictionary()


class Options(PipelineOptions):
    """Options whose views, of which Beam asks four for each transform, are made once: each makes an argument parser.

    All views of the same options share their values, so that one can stand for all of a class.
    """

    def view_as(self, cls: type[Any]) -> Any:
        """The options as those of `cls`."""
        views = _views.setdefault(self, {})
        if cls not in views:
            views[cls] = super().view_as(cls)
        return views[cls]
