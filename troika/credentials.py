"""Text that may be printed: URLs without user names, passwords and tokens."""

import re


def without_credentials(text: str) -> str:
    """Return `text` with user names and passwords in URLs, and what follows a `?` there, replaced by `***`."""
    text = re.sub(r"(\w://)[^/\s'\"]*@", r"\1***@", text)
    return re.sub(r"(\w://[^\s'\"?]*\?)[^\s'\"]+", r"\1***", text)
