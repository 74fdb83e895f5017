"""`assay training work`: the provider's side of a training."""

import functools
import pathlib
from typing import Annotated

import typer

from assay.errors import UsageError
from assay.providers.executors import Executor, Process, RayJobs
from assay.providers.keys import check_public, open_key
from assay.providers.mailbox import Mailbox
from assay.providers.worker import Place
from assay.providers.worker import work as do_work

from . import options
from .exits import Exit
from .output import say, write


def work(
    mailbox: Annotated[
        str, typer.Argument(metavar="MAILBOX", help="A folder, or a URL such as s3://bucket/a.")
    ],
    key: Annotated[
        pathlib.Path,
        typer.Option(metavar="FILE", help="Your private key, made where there is none."),
    ] = pathlib.Path("provider.key"),
    code: Annotated[
        pathlib.Path, typer.Option(metavar="FOLDER", help="Where the code files of the plan are.")
    ] = pathlib.Path(),
    data: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="The training data; their digest is checked."),
    ] = None,
    client: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="The client's public key: other bundles are refused. Needed for plans that run a "
            "command.",
        ),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Do what is there, then end; else wait for more.")
    ] = False,
    poll: Annotated[
        float, typer.Option(min=0.01, help="Seconds between looks into the mailbox.")
    ] = 10.0,
    work: Annotated[
        pathlib.Path | None,
        typer.Option(
            metavar="FOLDER", help="Where bundles lie while they are executed.  [default: .assay]"
        ),
    ] = None,
    lease: Annotated[
        float,
        typer.Option(min=1, help="Seconds without a sign of life until another worker takes over."),
    ] = 300.0,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Train as jobs of a Ray cluster, by the URL of its job server: "
            "http://HOST:8265. Its nodes must see the same folders.",
        ),
    ] = None,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs that a Ray job asks for.")] = 0.0,
    quiet: options.Quiet = False,
) -> int:
    """The provider's side: execute the bundles of a mailbox, and answer each one once.

    Code, data and start weights are checked against the bundle's digests, the training runs in a
    process of its own, and its weights and log go back signed. The key is made on the first call;
    its public part is printed, for the client's plan. Several workers can serve one mailbox; a
    worker that was killed is started again, and does what it left.

    \b
    Examples:
      assay training work s3://client-a/us --data train.npz
      assay training work /mnt/mailbox --data train.npz --code recipe/ --once
      assay training work s3://client-a/us --data train.npz --ray http://head:8265 --gpus 1
    """
    signing = open_key(key)
    write(f"public key: {signing.public}")
    if not code.is_dir():
        raise UsageError(f"expected a folder with the code files of the plan, got --code {code}")
    executor: Executor = Process()
    if ray is not None:
        executor = RayJobs(address=ray, resources={"GPU": gpus})
    place = Place(
        key=signing,
        code=code,
        data=data,
        work=work or pathlib.Path(".assay"),
        executor=executor,
        client=None if client is None else check_public(client),
        lease_s=lease,
    )
    tell = functools.partial(say, quiet=quiet)
    done = do_work(Mailbox(mailbox), place, once=once, poll_s=poll, say=tell)
    say(f"{done} bundles answered", quiet=quiet)
    return Exit.NOTHING_FLAGGED
