"""A grid whose nodes are functions: what a SuperLink does with messages, without one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from flwr.app import Error, Message, RecordDict
from flwr.common.typing import Run
from flwr.serverapp import Grid

Node = Callable[[Message], RecordDict | Error | None]


class FakeGrid(Grid):
    """Each message is answered at once by its node's function: with content, with an error, or not at all."""

    def __init__(self, nodes: Mapping[int, Node]) -> None:
        self.nodes = dict(nodes)
        self.sent: list[Message] = []
        self._replies: dict[str, Message] = {}

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        raise NotImplementedError

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return [self._push(message) for message in messages]

    def _push(self, message: Message) -> str:
        self.sent.append(message)
        number = f"message-{len(self.sent)}"
        message.metadata.__dict__["_message_id"] = number
        answer = self.nodes[message.metadata.dst_node_id](message)
        if isinstance(answer, Error) or answer is not None:
            self._replies[number] = Message(answer, reply_to=message)
        return number

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(number) for number in message_ids if number in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return self.pull_messages(self.push_messages(messages))

    def close(self) -> None:
        """Nothing is open."""
