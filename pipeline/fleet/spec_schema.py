"""The spec as a JSON Schema (2020-12), for editors and other programs.

It says what each field may be. What spans several fields (`spec_checks`) no schema says: a file that fits the
schema may still be rejected.
"""

import json

from pydantic.json_schema import GenerateJsonSchema

from pipeline.fleet.spec import Spec


def spec_schema() -> str:
    """The schema as text; the same each time."""
    schema = Spec.model_json_schema(by_alias=True)
    schema = {"$schema": GenerateJsonSchema.schema_dialect, "title": "kuaka fleet", **schema}
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"
