"""Write files that are never seen half-written."""

import os


def publish_file(partial: str, target: str) -> None:
    """Give a complete file its name: whoever looks at ``target`` sees the old file or the new one, never a part.

    Args:
        partial: The file as written; in the same folder.
        target: Its name from now on. An older file of that name is replaced.
    """
    with open(partial, "rb") as file:
        os.fsync(file.fileno())  # a machine that dies must not leave the name without the content
    os.replace(partial, target)


def replace_text(path: str, text: str) -> None:
    """Write a small text file so that at every moment it holds either the old or the new text."""
    partial = f"{path}.partial"
    with open(partial, "w", encoding="utf-8") as file:
        file.write(text)
    publish_file(partial, path)
