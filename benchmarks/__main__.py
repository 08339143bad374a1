"""``python -m benchmarks [--quick] [--write] [--list] [name ...]``."""

from __future__ import annotations

import sys

import click

from .harness import append_results, discover, print_results, run_benchmarks


@click.command()
@click.argument("names", nargs=-1)
@click.option("--quick", is_flag=True, help="Smaller sizes, for trying things out; targets may not apply.")
@click.option("--write", is_flag=True, help="Append the results with hardware and versions to benchmarks/RESULTS.md.")
@click.option("--list", "list_only", is_flag=True, help="Only list the benchmarks.")
def main(names, quick, write, list_only):
    """Runs the benchmarks; exits with 1 when one did not run or missed its target."""
    if list_only:
        click.echo("\n".join(discover()))
        return
    try:
        results = run_benchmarks(names, quick=quick)
    except ValueError as e:
        raise click.ClickException(str(e)) from e
    print_results(results)
    if write:
        append_results(results)
    bad = [n for n, rows in results.items() if isinstance(rows, str) or any(r.passed is False for r in rows)]
    if bad and not quick:
        sys.exit(1)


if __name__ == "__main__":
    main()
