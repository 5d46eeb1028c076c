"""How tests of a command run it: sys.argv[1] is the program."""
import subprocess
import sys


def spillway(*arguments, **options):
    return subprocess.run([sys.argv[1], *map(str, arguments)], capture_output=True, text=True, timeout=300, **options)


def one_error(code, exit_code, *arguments, **options):
    """The one line in which the command says why it refuses."""
    answer = spillway(*arguments, **options)
    lines = [line for line in answer.stderr.splitlines() if "error[" in line]
    assert answer.returncode == exit_code and len(lines) == 1 and f"error[{code}]" in lines[0], answer
    return lines[0]
