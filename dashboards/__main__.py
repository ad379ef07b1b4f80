"""`python -m dashboards`: write what is made here, and the copies that the Helm chart carries.

A chart cannot reach out of its directory, so it has copies; the tests keep all of them equal to what the code makes.
"""

from pathlib import Path

from dashboards.files import files


def main() -> None:
    """Write every file anew, and remove dashboards that no code makes any more."""
    root = Path(__file__).parent.parent
    made = files(root)
    for directory in {path.parent for path in made if path.suffix == ".json"}:
        for stale in set(directory.glob("*.json")) - made.keys():
            stale.unlink()
    for path, text in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
