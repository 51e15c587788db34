"""A ClientApp that worker processes can import: it doubles numbers, and dies or raises when told to."""

import os
import signal
from pathlib import Path
from typing import cast

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from sim.grid.groups import each_of_group

app = ClientApp(mods=[each_of_group])


@app.train()
def double(message: Message, context: Context) -> Message:
    order = message.content.config_records["order"]
    if order.get("raise"):
        raise ValueError(str(order["raise"]))
    dead = Path(str(context.run_config.get("dead", "")))
    if order.get("die") and (order["die"] == "always" or not dead.exists()):
        dead.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    answer = ConfigRecord({"twice": 2 * cast(int, order["number"]), "pid": os.getpid()})
    return Message(RecordDict({"answer": answer}), reply_to=message)


def load() -> ClientApp:
    return app
