"""One-page HTML reports: self-contained, so that Kubeflow can show them in a sandboxed frame."""

from pathlib import Path
from typing import Any

from troika.folders import write_atomic


def write_page(path: Path, template: str, **values: Any) -> None:
    """Render `templates/<template>` to `path`; names that the template uses and `values` lacks are errors."""
    write_atomic(path, render_page(template, **values))


def render_page(template: str, **values: Any) -> str:
    """The same as text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - optional dependency

    environment = Environment(
        loader=PackageLoader("troika"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)
