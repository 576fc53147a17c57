"""What Beam works out anew for every transform, in the driver and in each worker, remembered: a third of what it costs.

Imported for its effect on DoFns; `Options` is Beam's PipelineOptions.
"""

import inspect
import types
import weakref
from collections.abc import Callable
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from apache_beam.transforms import core, userstate
from apache_beam.typehints import decorators

_Specs = tuple[set[Any], set[Any]]


def _remember_specs(work_out: Callable[[Any], _Specs]) -> Callable[[Any], _Specs]:
    """As `work_out`, which Beam has look through the arguments of all 31 methods of a DoFn six times for its states.

    They are those of its class, unless it was given methods of its own: what a Map calls is a function, not a method.
    """
    found: dict[type, _Specs] = {}

    def remember(dofn: Any) -> _Specs:
        if any(isinstance(value, types.MethodType) for value in vars(dofn).values()):
            return work_out(dofn)
        if type(dofn) not in found:
            found[type(dofn)] = work_out(dofn)
        states, timers = found[type(dofn)]
        return {*states}, {*timers}

    return remember


userstate.get_dofn_specs = _remember_specs(userstate.get_dofn_specs)  # type: ignore[assignment]

# To help whoever writes transforms Beam reads each function's source, for a warning of one that both yields and
# returns, and notes the stack wherever a type is declared: a seventh of what it costs to build a pipeline.
core._check_fn_use_yield_and_return = lambda _: False  # type: ignore[assignment]
decorators.TRACEBACK_LIMIT = 0


def _remember_signatures(work_out: Callable[[Any], inspect.Signature]) -> Callable[[Any], inspect.Signature]:
    """As `work_out`, which Beam asks a hundred times and more for what the same few functions take."""
    found: weakref.WeakKeyDictionary[Any, dict[bool, inspect.Signature]] = weakref.WeakKeyDictionary()

    def remember(called: Any) -> inspect.Signature:
        bound = isinstance(called, types.MethodType)
        function = called.__func__ if bound else called
        if not isinstance(function, types.FunctionType):
            return work_out(called)
        known = found.setdefault(function, {})
        if bound not in known:
            known[bound] = work_out(called)
        return known[bound]

    return remember


decorators.get_signature = core.get_signature = _remember_signatures(decorators.get_signature)  # type: ignore

_views: weakref.WeakKeyDictionary[Any, dict[type, Any]] = weakref.WeakKeyDictionary()


class Options(PipelineOptions):
    """Options of one pipeline, known to be right: neither copied nor checked.

    Its views, of which Beam asks four for each transform, are made once: each makes an argument parser. All views of
    the same options share their values, so that one can stand for all of a class.
    """

    def __deepcopy__(self, _: dict[int, Any]) -> "Options":
        return self

    def view_as(self, cls: type[Any]) -> Any:
        """The options as those of `cls`."""
        views = _views.setdefault(self, {})
        if cls not in views:
            views[cls] = super().view_as(cls)
        return views[cls]

    def get_all_options(self, *args: Any, display_warnings: bool = False, **kwargs: Any) -> dict[str, Any]:
        """All options; nothing where only warnings of them are asked for."""
        return {} if display_warnings else super().get_all_options(*args, **kwargs)


def _checked(check: Callable[[Any], list[str]]) -> Callable[[Any], list[str]]:
    return lambda validator: [] if isinstance(validator.options, Options) else check(validator)


PipelineOptionsValidator.validate = _checked(PipelineOptionsValidator.validate)  # type: ignore[method-assign]
