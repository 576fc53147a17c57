"""`curate recipes`: what the recipes are."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options."""


def run(args: argparse.Namespace) -> int:
    """Prints the recipes; returns the exit code."""
    from filters import recipes

    for recipe in recipes.RECIPES.values():
        print(f"{recipe.name}{' (the default)' if recipe.name == recipes.DEFAULT else ''}")
        print(f"    {recipe.about}")
        print(f"    steps     {', '.join(step.name for step in recipe.steps) or 'none'}")
        if names := recipes.file_names(recipe):
            print(f"    needs     {' '.join(f'--file {name}=PATH' for name in names)}")
        print(f"    source    {recipe.source}")
        if recipe.rows_at_small:
            print(f"    keeps     {recipe.rows_at_small} of small's 12.8M rows")
        for result in recipe.expected:
            print(f"    expected  {result.scale:7} ImageNet {result.imagenet:.3f}, mean of 38 tasks {result.mean:.3f}")
    return 0
