"""mad VERB: one door, one way to say no.

A verb is a file of this package: its docstring is the verb's page of help, its ``run`` does the
work. A page is read without importing the file, so help answers at once, whatever a verb imports.

Bad input of any verb ends here, on one screen: the field, what is wrong, the remedy, exit code 2.
So does what the machine cannot do, and, with exit code 1, a training that diverges. ``--debug``
shows the traceback, too.
Rooms speak of their parameters as YAML spells them, in backticks; here they become flags.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from mad_lightning import __version__
from mad_lightning.refusal import Diverged, Refused, check_system

__all__ = ["VERBS", "flag", "main", "page"]

VERBS = (
    "train",
    "branch",
    "report",
    "sweep",
    "predict",
    "study",
    "measure",
    "verify",
    "export",
    "base",
    "wandb",
    "configs",
    "doctor",
    "completion",
)
_ALONE = ("configs", "doctor")
"""Verbs that need no arguments."""


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command line.

    Args:
        args: A verb and its arguments; None takes those of the process.

    Raises:
        SystemExit: With code 2 if the input was refused, or the machine cannot do it; with 1 if a
            training has diverged; with 130 if somebody pressed Ctrl-C.
    """
    given = list(sys.argv[1:] if args is None else args)
    verb, *rest = [arg for arg in given if arg != "--debug"] or ["--help"]
    try:
        speak_anywhere()
        if verb in ("-h", "--help"):
            print(overview())
        elif verb not in VERBS:
            raise unknown(verb)
        elif {"-h", "--help"} & {*rest} or not (rest or verb in _ALONE):
            print(page(verb))
        else:
            run(verb, rest)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (KeyboardInterrupt, SystemExit) as left:
        if not any(isinstance(part, KeyboardInterrupt) for part in (left, left.__context__)):
            raise
        if speaks():
            print("interrupted; to go on, run the same command", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        from mad_lightning.commands.faults import refusal_of

        refused = refusal_of(error)
        if refused is None:
            raise
        if "--debug" in given:
            import traceback

            traceback.print_exception(error)
        if speaks():
            print(f"error: {refused.renamed(str, flag)}", file=sys.stderr)
            if isinstance(refused, Diverged):
                print(way_on(refused), file=sys.stderr)
        raise SystemExit(1 if isinstance(refused, Diverged) else 2) from None


def speak_anywhere() -> None:
    """Lets words reach terminals that lack a letter of ours, and pipes that are closed."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - to the end
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def run(verb: str, args: Sequence[str]) -> None:
    """Does the work of a verb, where it can be done."""
    check_system()
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    here = str(Path.cwd())
    if here not in sys.path:  # classes of one's own lie where one stands, as with `python -m`
        sys.path.append(here)
    import_module(f"{__name__}.{verb}").run(args)


def page(verb: str) -> str:
    """The short page of a verb."""
    text = Path(__file__).with_name(f"{verb}.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(text)) or ""


def overview() -> str:
    """The page of all verbs."""
    lines = (page(verb).partition("\n")[0].partition(": ") for verb in VERBS)
    return "\n".join(
        [
            f"mad {__version__}: train generators on their own samples, measure what is lost.",
            "",
            "usage: mad VERB [options]",
            "",
            *(f"  {name:<16}{what.rstrip('.')}" for name, _, what in lines),
            "",
            "mad VERB --help shows a verb's page, --debug the traceback of what is refused.",
        ]
    )


def unknown(verb: str) -> Refused:
    """Says no to a verb that does not exist."""
    from difflib import get_close_matches

    near = get_close_matches(verb, VERBS, 3, 0.6)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return Refused(verb, "there is no such verb", f"{hint}mad has {', '.join(VERBS)}")


def way_on(diverged: Diverged) -> str:
    """How to go on from what stands after a divergence."""
    if diverged.stands:
        return f"  to go on from there: mad branch --from {diverged.stands}, with other settings"
    return "  to begin again: other settings, and a lineage.name of its own"


def speaks() -> bool:
    """Whether this process tells what was refused: the first of those that were started together.

    A rank that no launcher stands behind is left over from something else.
    """
    if "torch" not in sys.modules:
        return True
    from mad_lightning.processes import is_first, together

    launched = {"TORCHELASTIC_RUN_ID", "SLURM_STEP_ID"} & {*os.environ}
    return is_first() or not (launched or together())


def flag(name: str, value: str) -> str:
    """A parameter as one writes it here.

    Args:
        name: Its dotted name. A capital letter tells a member of a list by its class, e.g.
            ``evaluator.metrics.Neighbours.k``, which has no flag.
        value: What follows the name in YAML, ``": 64"``, or nothing.

    Returns:
        ``--data.source.resolution 64``, or the bare name where there is no value, or no flag.
    """
    if not value or re.search(r"(^|\.)[A-Z]", name):
        return name + value
    value = value.removeprefix(":").strip()
    return f"--{name} {value}" if re.fullmatch(r"[\w.,:/~+-]+", value) else f"--{name} '{value}'"
