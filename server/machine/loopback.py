"""Keep what talks to this machine itself away from a proxy."""

import importlib.util
from collections.abc import Mapping


def without_proxy(environment: dict[str, str]) -> dict[str, str]:
    """Return what to set so that loopback is never asked of a proxy; the user's own exceptions stay.

    Flower, Ray and the SuperNodes of one machine talk over loopback. A machine behind a proxy often sets
    ``http_proxy`` and no ``no_proxy``, and then HTTP and gRPC clients ask the proxy for 127.0.0.1.

    The function stands by itself: `server.machine.environment` copies it into a ``.pth`` file.

    Parameters
    ----------
    environment : dict
        Variables as they are.

    Returns
    -------
    dict
        Empty where no proxy is set. ``no_proxy`` and ``NO_PROXY``, each with the entries of both, because
        clients differ in which they read; ``no_grpc_proxy`` too where it is set, which gRPC reads instead.
    """
    exceptions = {"no_proxy", "no_grpc_proxy"}
    names = {name.lower() for name, value in environment.items() if value}
    if not any(name.endswith("_proxy") for name in names - exceptions):
        return {}
    both = environment.get("no_proxy", "") + "," + environment.get("NO_PROXY", "")
    wanted = {"no_proxy": both, "NO_PROXY": both}
    if "no_grpc_proxy" in environment:
        wanted["no_grpc_proxy"] = environment["no_grpc_proxy"]
    added = {}
    for name, entries in wanted.items():
        named = [entry.strip() for entry in entries.split(",") if entry.strip()]
        # "*" means everything already, and to some clients only when it stands alone.
        all_of_them = [*named, "localhost", "127.0.0.1", "::1"]
        added[name] = "*" if "*" in named else ",".join(dict.fromkeys(all_of_them))
    return added


def socks_faults(environment: Mapping[str, str]) -> list[str]:
    """Return which proxies nothing here can use: Flower's HTTP client fails on them even for loopback."""
    if importlib.util.find_spec("socksio") is not None:
        return []
    return [
        f"{name} is a SOCKS proxy ({value}), for which Flower's HTTP client needs the package socksio, "
        f"even to reach this machine; run `pip install httpx[socks]`, or start with `env -u {name}`"
        for name, value in environment.items()
        if name.lower() in ("http_proxy", "https_proxy", "all_proxy") and value.lower().startswith("socks")
    ]
