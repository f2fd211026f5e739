"""A stock Flower client; it needs nothing of fl_defense."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from drop_in.task import Net, load_part, test
from drop_in.task import train as train_net

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the received weights on this client's part."""
    net, images, labels = received(message, context)
    loss = train_net(net, images, labels)
    metrics = MetricRecord({"train_loss": loss, "num-examples": len(labels)})
    content = RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics})
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measure the received weights on this client's part."""
    net, images, labels = received(message, context)
    metrics = MetricRecord({"accuracy": test(net, images, labels), "num-examples": len(labels)})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def received(message, context):
    """Return the network with the received weights, and this client's images and labels."""
    net = Net()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    partition, count = context.node_config["partition-id"], context.node_config["num-partitions"]
    return net, *load_part(int(partition), int(count))
