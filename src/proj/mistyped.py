"""How verbs are read from the command line: a mistyped one is answered with the closest."""

from __future__ import annotations

from difflib import get_close_matches

# Typer brings its own copy of click; these three have no public name there (hence the pin in pyproject.toml).
from typer._click import Command, Context
from typer._click.exceptions import UsageError
from typer.core import TyperGroup


class Verbs(TyperGroup):
    """A mistyped verb is answered with the closest one; --project may also stand after the verb."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _project_first(args, ctx))

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, Command | None, list[str]]:
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            close = get_close_matches(args[0], self.list_commands(ctx), n=1, cutoff=0.5)
            hint = (
                f"did you mean `proj {close[0]}`?" if close else f"the verbs are {', '.join(self.list_commands(ctx))}"
            )
            raise UsageError(f"no verb is called {args[0]!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)


def _project_first(args: list[str], ctx: Context) -> list[str]:
    end = args.index("--") if "--" in args else len(args)
    for i, word in enumerate(args[:end]):
        if word == "--project" or word.startswith("--project="):
            width = 1 if "=" in word else 2
            if i + width > end and not ctx.resilient_parsing:
                raise UsageError("--project needs a folder after it", ctx)
            return args[i : i + width] + _project_first(args[:i] + args[i + width :], ctx)
    return args


class DataVerbs(TyperGroup):
    """`proj data ...` is `proj data prepare ...` unless the next word names another of its commands."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        if args and "=" not in args[0] and args[0] not in self.commands:
            close = get_close_matches(args[0], self.list_commands(ctx), n=1)
            if close and not ctx.resilient_parsing:
                raise UsageError(f"`proj data` has no command {args[0]!r}; did you mean `proj data {close[0]}`?", ctx)
        if not args or (args[0] not in self.commands and args[0] not in {"-h", "--help"}):
            args = ["prepare", *args]
        return super().parse_args(ctx, args)
