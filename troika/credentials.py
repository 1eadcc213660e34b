"""Text that may be printed: URLs without user names, passwords and tokens."""

import re

# A secret may hold a slash, so all is left out up to the last @; in a file's URL an @ may be a folder's.
_CREDENTIALS = re.compile(r"(\b(?!file:)[A-Za-z][A-Za-z0-9+.-]*:/{1,3})[^\s'\"]*@|(\bfile://)(?=[^/])[^\s'\"]*@")
_QUERY = re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]*:/{1,3}[^\s'\"?]*\?)(?!\*\*\*)[^\s'\"]+")


def without_credentials(text: str) -> str:
    """Return `text` with user names and passwords in URLs, and what follows a `?` there, replaced by `***`."""
    return _QUERY.sub(r"\1***", _CREDENTIALS.sub(r"\1\2***@", text))
