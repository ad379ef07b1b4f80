"""A submitted fleet's fields as the `Spec` that they are: checked once, however many attempts and hosts ask for it.

The rule: fields are told apart by identity. A controller has one object per fleet and never changes it; checking the
same ten thousand machines again for each of them would be most of a controller's work.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from pipeline.fleet.spec import Spec

#: Fleets whose migrations come and go at the same time; the one that was asked for longest ago is forgotten first.
_MOST = 32


class SubmittedSpecs:
    """The specs that were asked for lately; for one thread."""

    def __init__(self) -> None:
        #: By identity. The fields are kept so that no others get it.
        self._known: OrderedDict[int, tuple[Mapping[str, Any], Spec]] = OrderedDict()

    def spec(self, fields: Mapping[str, Any]) -> Spec:
        """What these fields say, which must not be changed afterwards. Raises pydantic's `ValidationError`."""
        known = self._known.get(id(fields))
        if known is None:
            known = fields, Spec.model_validate(fields, by_alias=True, by_name=False)
            self._known[id(fields)] = known
            if len(self._known) > _MOST:
                self._known.popitem(last=False)
        self._known.move_to_end(id(fields))
        return known[1]
