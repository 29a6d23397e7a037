"""``workbench serve``: the dashboard."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True, help="address to listen on")
@click.option("--port", default=5006, show_default=True, type=click.IntRange(1, 65535))
@click.option("--users", "password_file", type=click.Path(path_type=Path),
              help="turn sign-in on, with this file of names and hashed passwords")
@click.option("--add-user", metavar="NAME", help="add a user to --users and leave")
@click.option("--models", "model_folders", multiple=True, type=click.Path(path_type=Path),
              help="a folder whose models web users may open; may be repeated")
@click.option("--open", "open_browser", is_flag=True, help="open a browser")
@click.option("--insecure", is_flag=True, help="listen beyond this machine without sign-in")
def command(host: str, port: int, password_file: Path | None, add_user: str | None,
            model_folders: tuple[Path, ...], open_browser: bool, insecure: bool) -> None:
    """Serve the dashboard; several users, one engine, a fair queue."""
    from workbench.errors import MissingDependency, SettingsError

    try:
        from workbench.apps import auth, serve
    except ImportError as error:
        raise MissingDependency("the dashboard needs Panel; install it with "
                                f"pip install 'inference-workbench[app]' ({error})") from None
    if add_user:
        if password_file is None:
            raise SettingsError("--add-user needs --users FILE to write to")
        password = click.prompt("password", hide_input=True, confirmation_prompt=True)
        auth.add_user(password_file, add_user, password)
        click.echo(f"added {add_user} to {password_file}")
        return
    serve.serve(host=host, port=port, password_file=password_file,
                model_folders=list(model_folders), open_browser=open_browser, insecure=insecure)
