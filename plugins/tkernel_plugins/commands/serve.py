"""`tk serve`: a model behind OpenAI's protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tkernel.errors import MissingRequirement, TkError, UsageError

NEEDS = ("fastapi", "uvicorn", "prometheus_client")


def serve(
    ctx: typer.Context,
    file: Annotated[str | None, typer.Argument(help="YAML or JSON file, or a run.lock.json")] = None,
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    api_key: Annotated[
        list[str] | None, typer.Option(envvar="TK_API_KEY", help="A key that opens the server; repeatable.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What requests call the model.")] = None,
    lora: Annotated[
        list[str] | None, typer.Option(help="NAME=FOLDER, an adapter that requests may name; repeatable.")
    ] = None,
    queue: Annotated[int, typer.Option(min=0, help="Requests that wait; one more gets 429.")] = 256,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for one request.")] = 600.0,
    drain: Annotated[float, typer.Option(min=1, help="Seconds for what runs at SIGTERM.")] = 30.0,
    max_body: Annotated[int, typer.Option(min=1, help="MiB of a request.")] = 16,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens of a reply.")] = None,
    media_urls: Annotated[bool, typer.Option(help="Fetch images from public http(s) URLs.")] = False,
    media_folder: Annotated[
        Path | None, typer.Option(help="The folder whose images file: URLs may name.")
    ] = None,
    cors: Annotated[list[str] | None, typer.Option(help="An origin that may call; repeatable.")] = None,
    plugin: Annotated[list[str] | None, typer.Option("--plugin", help="As in `tk run`.")] = None,
) -> None:
    """Serve the model and adapters of FILE: /v1/chat/completions, /v1/completions, /v1/models, ...

    Example:  tk serve examples/support.yaml --adapter_name_or_path out/support
    """
    from importlib.util import find_spec

    missing = [module for module in NEEDS if find_spec(module) is None]
    if missing:
        raise MissingRequirement(
            f"`tk serve` needs {', '.join(missing)}, not installed", hint="pip install 'tkernel[serve]'"
        )
    from tkernel.cli.arguments import split_file
    from tkernel.pipeline import open_engine, open_session
    from tkernel_plugins.serving.settings import MIB, ServeSettings
    from tkernel_plugins.training.quiet import quiet

    adapters = dict(_named(text) for text in lora or ())
    path, overrides = split_file(file, ctx.args)
    calls = ("model", "adapter", "template", "media", "engine")
    session = open_session(path, overrides=overrides, plugins=plugin or (), calls=calls)
    with quiet():
        engine: Any = open_engine(session)
        if adapters and not hasattr(engine, "load_adapter"):
            raise TkError("this engine holds no adapters by name", hint="Leave `--lora` out.")
        for adapter, folder in adapters.items():
            engine.load_adapter(adapter, folder)
        reward = session.options.stage == "rm"
        if reward:
            from tkernel_plugins.training.saved_head import scorer_of

            scorer_of(engine, session)
    settings = ServeSettings(
        model=name or _name_of(session.facts.name),
        api_keys=tuple(api_key or ()),
        queue=queue,
        max_body=max_body * MIB,
        max_tokens=max_tokens,
        timeout=timeout,
        drain=drain,
        media_urls=media_urls,
        media_dir=media_folder,
        cors=tuple(cors or ()),
        reward=reward,
    )
    _serve(engine, settings, host, port)


def _serve(engine: Any, settings: Any, host: str, port: int) -> None:
    from tkernel_plugins.serving.app import make_app
    from tkernel_plugins.serving.running import run_server
    from tkernel_plugins.serving.service import Service

    service = Service(engine, engine.renderer, settings)

    def ready(url: str) -> None:
        typer.echo(f"serving {', '.join(service.models)} at {url}/v1")
        if not settings.api_keys and host not in ("127.0.0.1", "::1", "localhost"):
            typer.echo(f"whoever reaches {url} can use it: --api-key sets a key", err=True)

    try:
        run_server(make_app(service), host, port, settings, ready)
    finally:
        engine.close()


def _named(text: str) -> tuple[str, str]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise UsageError(f"--lora {text}: NAME=FOLDER is wanted", hint="--lora support=out/support")
    return name, folder


def _name_of(model: str) -> str:
    """The last part of a path or hub id."""
    return Path(model).name or model


COMMAND = serve
