"""Cut any single-path network in two: features up to an inspection layer, and the classifier after.

No layer names are assumed: the network's graph is traced with `torch.fx`, and a cut is possible
after every submodule that all of the network's information passes through.
"""

import copy
import operator
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

DEFAULT_DEPTH = 2 / 3
"""The default cut is the last possible one within this share of the weighted layers."""
NO_FEATURE_MAPS = (nn.Flatten, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Dropout)
"""The default cut lies before these: after them features have no place in the image, or no news."""


def split_at(model: nn.Module, name: str) -> tuple[nn.Module, nn.Module]:
    """Cut a model after one of its submodules: `head(features(x))` is `model(x)` in eval mode.

    Both parts share the model's weights: to train the head is to train the model. What the graph
    does in eval mode is cut, whatever the model's mode, which stays as it is; modules of a part
    follow `train` and `eval` as usual. The head never writes into the features it is given.

    Args:
        model: a network with one tensor in and one out.
        name: the submodule's name, as in `named_modules`.

    Returns:
        The part up to and with the submodule, and the part after it.

    Raises:
        ValueError: if the model cannot be traced, or cannot be cut there: no such submodule, it is
            called several times, something passes around it. The message names possible cuts.
    """
    trace = _trace(model)
    possible = _cuts(trace)
    if name not in possible:
        raise ValueError(f"{_why_not(trace, name)}; possible: {', '.join(_outermost(possible))}")
    cut = possible[name]
    before = _with_ancestors(cut)
    features, head = fx.Graph(), fx.Graph()
    left: dict[fx.Node, fx.Node] = {}
    # A copy, for the head may begin with an operation in place.
    right = {cut: head.call_method("clone", (head.placeholder("features"),))}
    for node in trace.graph.nodes:
        if node in before:
            left[node] = features.node_copy(node, left.__getitem__)
        if _is_batch_size(node):
            right[node] = head.call_method("size", (right[cut], 0))
        elif node not in before and node.op != "placeholder":
            right[node] = head.node_copy(node, right.__getitem__)
    features.output(left[cut])
    return _on_weights_of(model, trace, features), _on_weights_of(model, trace, head)


def possible_cuts(model: nn.Module) -> list[str]:
    """Return the names that `split_at` takes, in order; of several at one place the outermost."""
    return _outermost(_cuts(_trace(model)))


def default_cut(model: nn.Module) -> str:
    """Return the last possible cut within two thirds of the model's weighted layers.

    Weighted layers (convolutions, linear layers) are counted along the longest path.

    Raises:
        ValueError: if the model cannot be traced, or not cut anywhere.
    """
    trace = _trace(model)
    possible = _cuts(trace)
    if not possible:
        raise ValueError(
            "the model cannot be cut: no submodule lies on its only path; take a defense that does "
            "not cut, such as dhbe"
        )
    depth = _weighted_depth(trace)
    most = DEFAULT_DEPTH * max(depth.values())
    names = _outermost(possible)
    fitting = [
        name
        for name in names
        if depth[possible[name]] <= most
        and not isinstance(trace.root.get_submodule(name), NO_FEATURE_MAPS)
    ]
    return fitting[-1] if fitting else names[0]


@dataclass(frozen=True, kw_only=True)
class _Trace:
    """A model's graph in eval mode, and the nodes in which each submodule's calls end."""

    root: nn.Module
    graph: fx.Graph
    ends: Mapping[str, list[fx.Node]]


class _Tracer(fx.Tracer):
    """Remembers where submodules end; `shallow` looks into the model, not into its children."""

    def __init__(self, *, shallow: bool) -> None:
        super().__init__()
        self.shallow = shallow
        self.ends: dict[str, list[fx.Node]] = defaultdict(list)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return self.shallow or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        result = super().call_module(m, forward, args, kwargs)
        if isinstance(result, fx.Proxy):
            self.ends[self.path_of_module(m)].append(result.node)
        return result


def _trace(model: nn.Module) -> _Trace:
    """Trace a copy, for tracing may put constants on its root; the copy shares the weights."""
    weights = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    root = copy.deepcopy(model, weights).eval()
    for shallow in (False, True):
        tracer = _Tracer(shallow=shallow)
        try:
            graph = fx.GraphModule(root, tracer.trace(root)).graph
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            continue
        for node in reversed(graph.nodes):
            # A check of shapes, as in torchvision's ViT, passes nothing on.
            if node.target is torch._assert:
                graph.erase_node(node)
        _spell_batch_size_as_one(graph)
        graph.eliminate_dead_code()
        kept = set(graph.nodes)
        ends = {name: [n for n in nodes if n in kept] for name, nodes in tracer.ends.items()}
        return _Trace(root=root, graph=graph, ends=ends)
    raise ValueError(
        f"torch.fx cannot trace {type(model).__name__} ({reason}); keep decisions that depend on "
        "tensors out of its forward, or put them into submodules that forward calls one by one"
    )


def _spell_batch_size_as_one(graph: fx.Graph) -> None:
    """Write `images.shape[0]` and `images.size()[0]` as `images.size(0)`."""
    for node in list(graph.nodes):
        if node.target is not operator.getitem or node.args[1] != 0:
            continue
        asked = node.args[0]
        of_method = asked.op == "call_method" and asked.target == "size" and len(asked.args) == 1
        of_field = asked.target is getattr and asked.args[1] == "shape"
        if (of_method or of_field) and asked.args[0].op == "placeholder":
            with graph.inserting_before(node):
                size = graph.call_method("size", (asked.args[0], 0))
            node.replace_all_uses_with(size)
            graph.erase_node(node)


def _is_batch_size(node: fx.Node) -> bool:
    """Tell whether a node asks the input for its number of images, which features tell as well."""
    if node.op != "call_method" or node.target != "size" or node.args[1:] != (0,):
        return False
    asked = node.args[0]
    return isinstance(asked, fx.Node) and asked.op == "placeholder"


def _cuts(trace: _Trace) -> dict[str, fx.Node]:
    """Return the node of each submodule through which everything passes, by name, in order."""
    order = {node: place for place, node in enumerate(trace.graph.nodes)}
    ends = {name: nodes[0] for name, nodes in trace.ends.items() if len(nodes) == 1}
    return {
        name: node
        for name, node in sorted(ends.items(), key=lambda item: order[item[1]])
        if _everything_passes(trace, node)
    }


def _everything_passes(trace: _Trace, cut: fx.Node) -> bool:
    """Tell whether the rest of the graph needs `cut` alone, and has weights."""
    before = _with_ancestors(cut)
    inputs = {n for n in trace.graph.nodes if n.op == "placeholder"}
    sizes = {n for n in trace.graph.nodes if _is_batch_size(n)}
    after = [n for n in trace.graph.nodes if n not in before | inputs | sizes]
    needed = {source for node in after for source in node.all_input_nodes}
    crossing = (needed & (before | inputs)) - sizes
    return crossing == {cut} and any(_num_weighted(trace, node) > 0 for node in after)


def _with_ancestors(node: fx.Node) -> set[fx.Node]:
    found, waiting = {node}, [node]
    while waiting:
        for source in waiting.pop().all_input_nodes:
            if source not in found:
                found.add(source)
                waiting.append(source)
    return found


def _outermost(cuts: Mapping[str, fx.Node]) -> list[str]:
    names: dict[fx.Node, str] = {}
    for name, node in cuts.items():
        if node not in names or name.count(".") < names[node].count("."):
            names[node] = name
    return list(names.values())


def _why_not(trace: _Trace, name: str) -> str:
    if name not in dict(trace.root.named_modules()) or not name:
        return f"the model has no submodule {name!r}"
    calls = len(trace.ends.get(name, ()))
    if calls != 1:
        return f"{name!r} must be called once, got {calls} calls"
    return f"cannot cut at {name!r}, something passes around it or nothing follows it"


def _weighted_depth(trace: _Trace) -> dict[fx.Node, int]:
    """Return for each node the largest number of weighted layers on a path that ends in it."""
    depth: dict[fx.Node, int] = {}
    for node in trace.graph.nodes:
        sources = [depth[source] for source in node.all_input_nodes]
        depth[node] = max(sources, default=0) + _num_weighted(trace, node)
    return depth


def _num_weighted(trace: _Trace, node: fx.Node) -> int:
    if node.op == "get_attr":
        return int(getattr(_attribute(trace.root, str(node.target)), "ndim", 0) >= 2)
    if node.op != "call_module":
        return 0
    modules = trace.root.get_submodule(str(node.target)).modules()
    return sum(getattr(getattr(module, "weight", None), "ndim", 0) >= 2 for module in modules)


def _on_weights_of(model: nn.Module, trace: _Trace, graph: fx.Graph) -> nn.Module:
    """Make a module of a graph; constants that only tracing knows come from the traced copy."""
    shared = {}
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            target = str(node.target)
            owner = model if _has_attribute(model, target) else trace.root
            shared[target] = _attribute(owner, target)
    return fx.GraphModule(shared, graph)


def _has_attribute(module: nn.Module, path: str) -> bool:
    try:
        _attribute(module, path)
    except AttributeError:
        return False
    return True


def _attribute(module: nn.Module, path: str) -> Any:
    found: Any = module
    for step in path.split("."):
        found = getattr(found, step)
    return found
