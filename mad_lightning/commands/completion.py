"""mad completion: what a shell needs to complete mad's verbs and options.

usage: mad completion bash|zsh

Examples:
  mad completion bash > ~/.local/share/bash-completion/completions/mad
  mad completion zsh > ~/.mad_completion   # and in ~/.zshrc, after compinit: source it

Completes verbs, the options of each (of mad train all groups, Lightning's Trainer as well), names
of configurations where mad configs takes one, and else files. It is a fixed text: print it anew for
a new version. Options of a class that is chosen by name are not in it; mad train tells them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from mad_lightning.commands import VERBS, page
from mad_lightning.commands.configs import names
from mad_lightning.commands.explain import PlainParser
from mad_lightning.commands.train import LineageCLI

__all__ = ["build_parser", "run", "script"]

_AS_TRAIN = ("train", "branch")
"""Verbs that take what trains."""
_SCRIPT = """\
_mad() {{
  local cur="${{COMP_WORDS[COMP_CWORD]}}" prev="${{COMP_WORDS[COMP_CWORD-1]}}" words=""
  if [ "$COMP_CWORD" -eq 1 ]; then
    words="{verbs}"
  elif [ "$prev" = --show ] || [ "$prev" = --copy ]; then
    words="{names}"
  elif [ "${{cur#-}}" != "$cur" ]; then
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}}
complete -o default -F _mad mad
"""


class _Unparsed(LineageCLI):
    """The parser, without arguments."""

    def parse_arguments(self, parser: Any, args: Any) -> None:
        self.config = {}


def build_parser() -> PlainParser:
    """All that may be said to it."""
    parser = PlainParser("completion")
    parser.add_argument("shell", choices=("bash", "zsh"), metavar="SHELL")
    return parser


def run(args: Sequence[str]) -> None:
    """Prints the script."""
    print(script(build_parser().parse_args(args).shell), end="")


def script(shell: str) -> str:
    """What ``bash`` or ``zsh`` sources."""
    parser = _Unparsed([]).parser
    trains = {name for action in parser._actions for name in action.option_strings}
    cases = []
    for verb in VERBS:
        told = set(re.findall(r"(?<![\w-])--[a-z]\w+", page(verb))) | {"--help", "--debug"}
        told |= trains if verb in _AS_TRAIN else set()
        words = " ".join(sorted(word for word in told if word.startswith("--")))
        cases.append(f'      {verb}) words="{words}" ;;')
    text = _SCRIPT.format(verbs=" ".join(VERBS), names=" ".join(names()), cases="\n".join(cases))
    return "autoload -U +X bashcompinit && bashcompinit\n" * (shell == "zsh") + text
