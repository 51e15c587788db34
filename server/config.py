"""``python -m server.config``: print ``docs/configuration.md``.

With ``--toml`` the commented defaults that ``[tool.flwr.app.config]`` of ``pyproject.toml`` holds.
"""

import sys

from scenario.settings.as_text import commented_toml, configuration_page

if __name__ == "__main__":
    print(commented_toml() if "--toml" in sys.argv[1:] else configuration_page(), end="")
