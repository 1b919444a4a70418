"""Asks the controller beside it whether it is well, its database too; exit status 1 if not."""

import os
import sys
import urllib.error
import urllib.request

TIMEOUT_S = 8


def main() -> int:
    port = os.environ.get("WHERRY_HTTP_PORT", "8321")
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/health", timeout=TIMEOUT_S):
            return 0
    except (urllib.error.URLError, TimeoutError) as error:
        sys.stdout.write(f"the controller is not well: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
