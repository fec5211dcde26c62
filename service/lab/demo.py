"""x"""


def run_demo(name: str, *, keep: bool) -> int:
    return 1
