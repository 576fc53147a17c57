"""Reading YAML of users and of strangers: mappings, lists, text and numbers, and nothing that surprises."""

from typing import Any

import yaml

from metadata.errors import CurateError


class _Loader(yaml.SafeLoader):
    """YAML's safe subset, in which a key that comes twice is an error, and so is what no file of ours needs.

    That is aliases, of which a few lines may stand for a billion values, tags, and text that is no Unicode.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        if event.anchor or getattr(event, "tag", None):
            problem = "an anchor, an alias or a tag (&, * or ! without quotes)"
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        return super().compose_node(parent, index)

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        value = super().construct_scalar(node)
        value.encode()  # a ValueError for half of a surrogate pair, which only an escape can give
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                problem = f"the key {key.value!r} comes twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def parse(text: bytes, where: str, needed: str) -> Any:
    """What the YAML holds.

    Args:
        where: its file, and `needed`: what it is to be, for the error.

    Raises:
        CurateError: it is none; says on which line, and why.
    """
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:  # ValueError: dates as 2020-99-99
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise CurateError(f"{where}: {place}{problem}, but {needed}. Mend it.") from error
